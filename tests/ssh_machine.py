"""A machine to reach by ssh: a real sshd on 127.0.0.1:22 with a home in a test's folder.

``ray up`` knows no other port than 22. Ray's own ``ray stop`` ends every Ray of a machine; here it
ends those of this machine's folder alone, so that nothing else that runs here is touched.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from tests.patience import PATIENCE_SECONDS

SSHD = shutil.which("sshd") or "/usr/sbin/sshd"


def obstacle() -> str | None:
    """Why there can be no such machine here; None if there can."""
    for program in (SSHD, "ssh", "ssh-keygen", "rsync"):
        if shutil.which(program) is None:
            return f"no {Path(program).name} here (apt install openssh-server rsync)"
    if os.geteuid() != 0:
        return "only root may listen on port 22"
    with socket.socket() as probe:
        if probe.connect_ex(("127.0.0.1", 22)) == 0:
            return "another sshd listens on port 22"
    return None


@dataclass(frozen=True, slots=True)
class SshMachine:
    """Its folders; ``key`` opens it for ``root``."""

    folder: Path

    @property
    def home(self) -> Path:
        return self.folder / "remote"

    @property
    def temp(self) -> Path:
        """Of its Ray."""
        return self.folder / "ray"

    @property
    def key(self) -> Path:
        return self.folder / "key"

    @property
    def python(self) -> Path:
        return self.home / ".persona-sweep-venv" / "bin" / "python"

    def processes(self) -> list[int]:
        """Everything that was started for its Ray."""
        found = []
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                words = (entry / "cmdline").read_bytes() + (entry / "environ").read_bytes()
            except OSError:
                continue
            if str(self.temp).encode() in words and int(entry.name) != os.getpid():
                found.append(int(entry.name))
        return found


@contextmanager
def ssh_machine(folder: Path, *, dashboard_port: int, agent_port: int) -> Iterator[SshMachine]:
    """The machine while the block runs; ``folder`` must have a short name (sockets lie in it).

    ``agent_port`` is of the process that takes jobs: on Ray's own choice another Ray of this
    machine may listen already, and then no job is ever taken («No available agent»).
    """
    machine = SshMachine(folder)
    for place in (machine.home / ".ssh", machine.temp, machine.python.parent, Path("/run/sshd")):
        place.mkdir(parents=True, exist_ok=True)
    for name in ("key", "host_key"):
        command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)]
        subprocess.run(command, check=True)
    _write_programs(machine, dashboard_port, agent_port)
    config = folder / "sshd_config"
    config.write_text(
        f"""Port 22
ListenAddress 127.0.0.1
HostKey {folder / "host_key"}
PidFile {folder / "sshd.pid"}
AuthorizedKeysFile {folder / "key.pub"}
StrictModes no
UsePAM no
PasswordAuthentication no
PermitRootLogin prohibit-password
SetEnv HOME={machine.home}
""",
        encoding="utf-8",
    )
    server = subprocess.Popen([SSHD, "-D", "-f", str(config)], stderr=subprocess.DEVNULL)
    try:
        _wait_for_port(22, server)
        yield machine
    finally:
        for process in machine.processes():
            _end(process)
        server.terminate()
        server.wait(timeout=PATIENCE_SECONDS)


def _write_programs(machine: SshMachine, dashboard_port: int, agent_port: int) -> None:
    """``ray`` and ``python`` of the environment that the tests run in, at home on the machine."""
    real = Path(sys.executable).parent
    code = machine.home / "persona-sweep"
    stop = machine.folder / "stop.py"
    stop.write_text(
        "import os, pathlib, signal, sys\n"
        "for entry in pathlib.Path('/proc').glob('[0-9]*'):\n"
        "    try:\n"
        "        words = (entry / 'cmdline').read_bytes()\n"
        f"        if b'{machine.temp}' in words and int(entry.name) != os.getpid():\n"
        "            os.kill(int(entry.name), signal.SIGKILL)\n"
        "    except OSError:\n"
        "        pass\n",
        encoding="utf-8",
    )
    bin_folder = machine.python.parent
    _program(
        bin_folder / "ray",
        f"""export PYTHONPATH={code}
case "$1" in
  stop) exec {sys.executable} {stop} ;;
  start) shift; exec {real / "ray"} start --temp-dir={machine.temp} --num-cpus=2 \\
    --object-store-memory=200000000 --dashboard-port={dashboard_port} \\
    --dashboard-agent-listen-port={agent_port} "$@" ;;
  *) exec {real / "ray"} "$@" ;;
esac
""",
    )
    _program(machine.python, f'export PYTHONPATH={code}\nexec {sys.executable} "$@"\n')
    profile = f"export HOME={machine.home}\nexport PATH={bin_folder}:$PATH\n"
    for name in (".bash_profile", ".bashrc"):
        (machine.home / name).write_text(profile, encoding="utf-8")


def _program(path: Path, text: str) -> None:
    path.write_text(f"#!/bin/sh\n{text}", encoding="utf-8")
    path.chmod(0o755)


def _wait_for_port(port: int, server: subprocess.Popen[bytes]) -> None:
    until = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < until:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        if server.poll() is not None:
            raise RuntimeError(f"sshd ended with code {server.returncode}")
        time.sleep(0.05)
    raise RuntimeError("sshd does not answer")


def _end(process: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(process, signal.SIGKILL)
