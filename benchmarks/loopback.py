"""A real sshd on loopback with a key of its own: the other machine of the ssh benchmarks and tests."""

from __future__ import annotations

import getpass
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from edgekd.errors import MissingDependency


@contextmanager
def sshd() -> Iterator[tuple[str, list[str]]]:
    """Yield (address, ssh options) of a server that lives as long as the block.

    Raises :class:`MissingDependency` where there is no sshd or it does not start.
    """
    program = shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
    if program is None or shutil.which("ssh") is None:
        raise MissingDependency("sshd is not installed; install it: apt-get install openssh-server")
    with tempfile.TemporaryDirectory(prefix="edgekd-sshd-") as name:
        folder = Path(name)
        for key in ("host", "user"):
            command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / key]
            subprocess.run(command, check=True)
        shutil.copy(folder / "user.pub", folder / "authorized")
        if os.getuid() == 0:
            Path("/run/sshd").mkdir(exist_ok=True)  # where it drops its privileges
        port = _free_port()
        server = subprocess.Popen(_command(program, folder, port), stderr=subprocess.PIPE)
        try:
            _wait(server, port)
            options = {
                "Port": port, "IdentityFile": folder / "user", "IdentitiesOnly": "yes",
                "StrictHostKeyChecking": "no", "UserKnownHostsFile": folder / "known",
                "LogLevel": "ERROR",
            }  # fmt: skip
            flags = [
                word for option in options.items() for word in ("-o", "=".join(map(str, option)))
            ]
            yield f"{getpass.getuser()}@127.0.0.1", flags
        finally:
            server.terminate()
            server.wait()


def _command(program: str, folder: Path, port: int) -> list[str]:
    settings = {
        "ListenAddress": "127.0.0.1", "HostKey": folder / "host", "PidFile": "none",
        "AuthorizedKeysFile": folder / "authorized", "StrictModes": "no", "UsePAM": "no",
        "PasswordAuthentication": "no", "PermitRootLogin": "prohibit-password",
    }  # fmt: skip
    flags = [word for setting in settings.items() for word in ("-o", "=".join(map(str, setting)))]
    return [program, "-D", "-e", "-f", "/dev/null", "-p", str(port), *flags]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _wait(server: subprocess.Popen[bytes], port: int) -> None:
    for _ in range(100):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        if server.poll() is not None:
            said = (server.stderr.read() if server.stderr else b"").decode().strip().splitlines()
            raise MissingDependency(
                f"sshd does not start here: {said[-1] if said else server.returncode}"
            )
        time.sleep(0.05)
    raise MissingDependency("sshd does not answer on loopback within 5 s")
