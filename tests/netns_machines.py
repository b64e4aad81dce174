"""Machines with addresses of their own: network namespaces behind one switch, on one disk.

A machine reaches the others and nothing else. The switch is a bridge in a namespace of its own, so
that this host's own network is not touched. To pull a machine's cable is to take its port out of
the bridge: its processes live on and see an intact link, but whatever they send is lost.

All machines share this host's disk. Each has a group of its own, which its files bear: so a file
tells which machine wrote it.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from tests.patience import PATIENCE_SECONDS

FIRST_GROUP = 61_000
"""Above the groups that systems give to people and services."""


def obstacle() -> str | None:
    """Why there can be no such machines here; None if there can."""
    if os.geteuid() != 0:
        return "only root may make network namespaces"
    if shutil.which("ip") is None:
        return "no ip here (apt install iproute2)"
    try:
        with machines("p"):
            return None
    except subprocess.CalledProcessError as error:
        return f"no network namespaces here: {error.stderr.decode().strip()}"


@dataclass(frozen=True, slots=True)
class NetnsMachine:
    """One machine; ``name`` is that of its namespace, ``switch`` that of its switch."""

    name: str
    switch: str
    address: str
    group: int
    started: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def inside(self) -> list[str]:
        """Stands before a command that is to run on this machine."""
        return ["ip", "netns", "exec", self.name]

    def start(
        self, words: Sequence[str], *, environment: Mapping[str, str], log: Path
    ) -> subprocess.Popen[bytes]:
        """A program on this machine; what it says goes to ``log``."""
        with log.open("wb") as out:
            process = subprocess.Popen(
                [*self.inside, *words],
                env=environment,
                cwd=log.parent,
                group=self.group,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
            )
        self.started.append(process)
        return process

    def processes(self) -> list[int]:
        """Everything that runs on this machine."""
        return [int(word) for word in _ip("netns", "pids", self.name).split()]

    def wrote(self, path: Path) -> bool:
        """Whether a file or folder was made on this machine."""
        return path.stat().st_gid == self.group

    def pull_cable(self) -> None:
        """Cut the machine off the others."""
        _ip("-n", self.switch, "link", "set", self.name, "nomaster")

    def plug_cable(self) -> None:
        """Undo ``pull_cable``."""
        _ip("-n", self.switch, "link", "set", self.name, "master", "bridge")


@contextmanager
def machines(*letters: str) -> Iterator[list[NetnsMachine]]:
    """Machines while the block runs, one for each letter; then all that runs on them is ended.

    Raises:
        subprocess.CalledProcessError: there are no network namespaces, or no bridges.
    """
    # At most 15 characters: the names of a machine's two ends of the cable are its own.
    prefix = f"ps{os.getpid()}"
    switch = f"{prefix}-"
    found = [
        NetnsMachine(f"{prefix}{letter}", switch, f"10.77.0.{number}", FIRST_GROUP + number)
        for number, letter in enumerate(letters, start=1)
    ]
    try:
        _ip("netns", "add", switch)
        _ip("-n", switch, "link", "add", "bridge", "type", "bridge")
        _ip("-n", switch, "link", "set", "bridge", "up")
        for machine in found:
            _connect(machine)
        yield found
    finally:
        for machine in found:
            _end_all(machine)
        for name in (*(machine.name for machine in found), switch):
            # With a namespace go its cables. One that could not be made is not there.
            with suppress(subprocess.CalledProcessError):
                _ip("netns", "delete", name)


def _connect(machine: NetnsMachine) -> None:
    """Make a machine, with one cable to the switch."""
    name, switch = machine.name, machine.switch
    _ip("netns", "add", name)
    _ip("-n", name, "link", "set", "lo", "up")
    _ip(*f"-n {switch} link add {name} type veth peer name eth0 netns {name}".split())
    machine.plug_cable()
    _ip("-n", switch, "link", "set", name, "up")
    _ip("-n", name, "address", "add", f"{machine.address}/24", "dev", "eth0")
    _ip("-n", name, "link", "set", "eth0", "up")


def _end_all(machine: NetnsMachine) -> None:
    """End every process of a machine; one that is ended may just have started another one."""
    until = time.monotonic() + PATIENCE_SECONDS
    with suppress(subprocess.CalledProcessError):
        while (processes := machine.processes()) and time.monotonic() < until:
            for process in processes:
                with suppress(ProcessLookupError):
                    os.kill(process, signal.SIGKILL)
            time.sleep(0.05)
    for started in machine.started:
        started.wait(timeout=PATIENCE_SECONDS)


def _ip(*words: str) -> str:
    done = subprocess.run(["ip", *words], capture_output=True, check=True)
    return done.stdout.decode()
