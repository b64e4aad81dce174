"""Ray for the time of a run: started locally with its own short temporary folder, or joined."""

from __future__ import annotations

import io
import logging
import os
import secrets
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from orchestrator.cluster_address import AUTO, HeadAddress, reachable_head
from orchestrator.exit_codes import InfrastructureError, InputError
from orchestrator.head_watch import HeadWatch, head_is_gone
from orchestrator.home import home, private_folder
from orchestrator.local_ray import QUIET, LocalRay, own_folder, start_local
from orchestrator.own_packages import other_package
from orchestrator.placement import Machine, gpu_bytes_here
from orchestrator.quiet_ray import without_native_messages
from orchestrator.ray_environment import WORKER_VARIABLES, prepare_environment
from orchestrator.shipping import copy_code
from results.object_store import ObjectStore


@dataclass(frozen=True, slots=True)
class RaySession:
    """A Ray that is up.

    ``dashboard`` is its address, None without one; ``without``: why there is none although it was
    asked for; ``token``: how a person learns the token that it wants.
    """

    dashboard: str | None
    without: str | None = None
    token: str = "ray get-auth-token"


def cluster_nodes(address: str) -> tuple[Machine, ...]:
    """The nodes of a running Ray, as Ray counts them; joins it for a moment.

    A cluster may count GPUs that torch cannot use (logical ones), so one of its processes is asked.

    Raises:
        InputError: the address is malformed.
        InfrastructureError: there is no such Ray, or none of its processes answers.
    """
    with ray_session(Machine(0, 0), address=address, dashboard=False):
        import ray

        found = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        gpu_bytes = _cluster_gpu_bytes() if any(node.get("GPU") for node in found) else 0
    return tuple(
        Machine(
            cpus=int(node.get("CPU", 0)),
            gpus=int(node.get("GPU", 0)),
            memory_bytes=int(node.get("memory", 0)),
            gpu_bytes=gpu_bytes if node.get("GPU") else 0,
            logical=gpu_bytes == 0,
        )
        for node in found
    )


ANSWER_SECONDS = 120.0


def _cluster_gpu_bytes() -> int:
    """Memory of a GPU as a process of the cluster sees it, 0 where torch sees none."""
    import ray
    from ray.exceptions import GetTimeoutError

    # A hair of a GPU: it may be in use already.
    asked = ray.remote(num_cpus=0, num_gpus=0.001, max_calls=1)(gpu_bytes_here).remote()
    try:
        return int(ray.get(asked, timeout=ANSWER_SECONDS))
    except GetTimeoutError as error:
        raise InfrastructureError(
            f"no process of the cluster told its GPU's memory within {ANSWER_SECONDS:.0f} s; is "
            "something else using all of it?"
        ) from error


Answer = TypeVar("Answer")


class NoAnswerError(InfrastructureError):
    """A node of the cluster did not do what it was asked to."""


def ask_a_node(
    function: Callable[..., Answer],
    *arguments: Any,
    machine: Machine,
    address: str,
    resources: Mapping[str, float],
    seconds: float,
) -> Answer:
    """Call a function on a node of the cluster, which is joined for it unless it is already.

    Args:
        function: of one of the program's own modules.
        arguments: of the function.
        machine: see ``ray_session``.
        address: of the cluster.
        resources: that must be free there, as Ray counts them.
        seconds: until there must be an answer.

    Raises:
        NoAnswerError: no node had room in time, or the function raised.
        InfrastructureError: there is no such Ray.
    """
    import ray
    from ray.exceptions import GetTimeoutError, RayError

    with ExitStack() as stack:
        if not ray.is_initialized():
            stack.enter_context(ray_session(machine, address=address, dashboard=False))
        gpus = resources.get("GPU", 0.0)
        task = ray.remote(num_cpus=resources["CPU"], num_gpus=gpus, max_retries=0)(function)
        asked = task.remote(*arguments)
        try:
            found: Answer = ray.get(asked, timeout=seconds)
        except GetTimeoutError:
            ray.cancel(asked, force=True)
            raise NoAnswerError(f"no node answered within {seconds:.0f} s") from None
        except RayError as error:
            raise NoAnswerError(str(error).strip().splitlines()[-1]) from error
    return found


@contextmanager
def ray_session(
    machine: Machine,
    *,
    address: str | None = None,
    dashboard: bool = True,
    on_lost: Callable[[InfrastructureError], None] | None = None,
) -> Iterator[RaySession]:
    """Ray while the block runs.

    Args:
        machine: CPUs and GPUs of a local Ray.
        address: of a cluster to join; by default Ray is started here, and only here.
        dashboard: whether a local Ray serves one, on 127.0.0.1 alone.
        on_lost: told, from another thread, that the cluster's head is gone; the process is ended
            soon after, if it does not end by itself.

    Raises:
        InputError: the address is malformed.
        InfrastructureError: Ray does not come up, or its head is gone.
    """
    if address is not None:
        _check_current_folder()
    prepare_environment(joins=address is not None)
    head = None if address is None else reachable_head(address, running_here=_running_here)
    with ExitStack() as stack:
        folder = stack.enter_context(own_folder())
        if head is not None:
            stack.enter_context(without_native_messages())
        stack.enter_context(_shut_down(head, on_lost))
        try:
            if address is None:
                found = start_local(machine, dashboard=dashboard, folder=folder)
            else:
                found = _join(address, folder=folder)
        except InfrastructureError:
            raise
        except Exception as error:
            raise InfrastructureError(_no_ray(error, address)) from error
        _silence_node_messages()
        yield RaySession(found.dashboard, found.without, _told_token(folder))


def _check_current_folder() -> None:
    """Ray puts the driver's current folder before the module path of a cluster's workers.

    Raises:
        InputError: a module there would stand in for one of ours.
    """
    found = other_package(Path.cwd())
    if found is not None:
        raise InputError(
            f"{found} has the name of one of this program's packages, and the cluster's workers "
            "would take it for that: start the command in another folder"
        )


def _told_token(folder: Path) -> str:
    """What a person enters to learn the token; one of this process alone is left in a file."""
    token = os.environ.get("RAY_AUTH_TOKEN")
    if token is None:
        own = home()
        made = own is not None and own == private_folder()
        return f"HOME={own} ray get-auth-token" if made else "ray get-auth-token"
    path = folder / "auth_token"
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600), "w", encoding="ascii") as file:
        file.write(token)
    return f"cat {path}"


@contextmanager
def _shut_down(
    head: HeadAddress | None, on_lost: Callable[[InfrastructureError], None] | None
) -> Iterator[None]:
    """Shut Ray down after the block, unless its head is gone: then that would wait for it."""
    import ray

    if head is None or on_lost is None:
        try:
            yield
        finally:
            ray.shutdown()
        return
    watch = HeadWatch(head, on_lost=on_lost)
    watch.start()
    try:
        yield
    except Exception as error:
        problem = watch.problem()
        if problem is None:
            raise
        watch.give_up()
        if isinstance(error, InfrastructureError):
            raise
        # What Ray's functions raise without a head is of many kinds.
        raise head_is_gone(head, problem) from error
    finally:
        watch.stop()
        if not watch.lost:
            ray.shutdown()


def _running_here() -> str:
    """Address of the cluster that a node on this machine belongs to, as Ray itself finds it."""
    from ray._private import services

    return str(services.canonicalize_bootstrap_address_or_die(AUTO))


def _silence_node_messages() -> None:
    """No «(raylet) The node … has been marked dead»: Ray prints these whatever ``log_to_driver``.

    The switch is Ray's own business and may go away; then they are seen again.
    """
    from ray._private import worker

    if hasattr(worker, "_worker_logs_enabled"):
        worker._worker_logs_enabled = False


def _no_ray(error: Exception, address: str | None) -> str:
    """Why there is no Ray, and what to do where the token is the reason."""
    words = f"Ray does not start: {error}" if address is None else f"no Ray at {address}: {error}"
    if "token" not in str(error).lower():
        return words
    return (
        f"{words}\nA cluster wants its own token: copy its ~/.ray/auth_token here (chmod 600), or "
        "put it into RAY_AUTH_TOKEN. For a cluster without one (whoever reaches it can run code "
        "on it) set RAY_AUTH_MODE=disabled."
    )


def _join(address: str, *, folder: Path) -> LocalRay:
    import ray

    # Nodes may have another version of this program, or none.
    modules = [str(package) for package in copy_code(folder)]
    env = {"env_vars": WORKER_VARIABLES, "py_modules": modules}
    context = ray.init(address=address, runtime_env=env, **QUIET)
    return LocalRay(context.dashboard_url or None)


def ray_schema_problem(config: Mapping[str, Any]) -> str | None:
    """What Ray's own check says against a cluster file; None if nothing, or if it cannot be asked.

    The functions are Ray's own business and may go away; then our rules alone are checked.
    """
    try:
        from ray.autoscaler._private.util import prepare_config, validate_config
    except ImportError:
        return None
    quiet = io.StringIO()
    logging.getLogger(prepare_config.__module__).setLevel(logging.ERROR)
    try:
        with redirect_stdout(quiet), redirect_stderr(quiet):
            validate_config(prepare_config(deepcopy(dict(config))))
    except SystemExit:
        told = [line.strip() for line in quiet.getvalue().splitlines() if line.strip()]
        return told[0] if told else "it ends without a reason"
    except Exception as error:
        return str(error).splitlines()[0]
    return None


def check_shared_storage(place: Path | str) -> None:
    """Write a marker into a workspace, and let every node of the cluster read it; Ray must be up.

    Args:
        place: the workspace's folder, or its address in a bucket.

    Raises:
        InfrastructureError: a node does not see it, or does not answer.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    told = secrets.token_hex(16)
    marker = f".storage-probe-{secrets.token_hex(4)}"
    _write_marker(place, marker, told)
    try:
        nodes = {n["NodeID"]: n["NodeManagerHostname"] for n in ray.nodes() if n["Alive"]}
        asked = {}
        for node in nodes:
            there = NodeAffinitySchedulingStrategy(node, soft=False)
            task = ray.remote(num_cpus=0, max_retries=0)(_read_marker)
            asked[task.options(scheduling_strategy=there).remote(place, marker)] = node
        done, late = ray.wait(list(asked), num_returns=len(asked), timeout=ANSWER_SECONDS)
        blind = [asked[one] for one in done if ray.get(one) != told]
    finally:
        _remove_marker(place, marker)
    if blind or late:
        names = [f"{nodes[n]} ({n[:8]}) does not see it" for n in blind]
        names += [f"{nodes[asked[n]]} ({asked[n][:8]}) does not answer" for n in late]
        raise InfrastructureError(
            f"{place} is not on storage that all {len(nodes)} nodes share: {'; '.join(names)}. "
            "Give a --workspace on a file system that is mounted on every node (NFS, EFS), or in "
            "a bucket that every node may read and write (s3://BUCKET/FOLDER)"
        )


def _write_marker(place: Path | str, name: str, told: str) -> None:
    if isinstance(place, Path):
        (place / name).write_text(told, encoding="ascii")
    else:
        ObjectStore(place).write(name, told.encode())


def _read_marker(place: Path | str, name: str) -> str | None:
    """On a node; a node that lacks boto3 or credentials sees nothing of a bucket."""
    try:
        if isinstance(place, Path):
            return (place / name).read_text(encoding="ascii")
        found = ObjectStore(place).read(name)
    except OSError:
        return None
    return None if found is None else found.content.decode("ascii", "replace")


def _remove_marker(place: Path | str, name: str) -> None:
    if isinstance(place, Path):
        (place / name).unlink(missing_ok=True)
    else:
        ObjectStore(place).remove([name])
