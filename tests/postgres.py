"""A real PostgreSQL server for tests, of Debian's package."""

import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path


def find_binaries() -> Path | None:
    """Where ``initdb`` is; None when there is no PostgreSQL here."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if found:
        return found[-1].parent
    initdb = shutil.which("initdb")
    return Path(initdb).parent if initdb else None


@dataclass(frozen=True)
class Server:
    """A server of our own: the URL of its first database, and what stops and starts it."""

    url: str
    stop: Callable[[], None]
    start: Callable[[], None]


@contextmanager
def run_postgres() -> Iterator[str]:
    """Run a server of our own in a ``with`` block; gives the URL of its first database."""
    with run_server() as server:
        yield server.url


@contextmanager
def run_server() -> Iterator[Server]:
    """Run a server of our own in a ``with`` block."""
    binaries = find_binaries()
    assert binaries is not None
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    # Not below pytest's folder, which nobody else may enter: the server refuses to run as root.
    folder = Path(tempfile.mkdtemp(prefix="padim-postgres-"))
    as_user: tuple[str, ...] = ()
    if os.geteuid() == 0:
        as_user = ("runuser", "-u", "postgres", "--")
        shutil.chown(folder, "postgres")
    data = folder / "data"

    def run(name: str, *words: object) -> None:
        command = [*as_user, str(binaries / name), *map(str, words)]
        subprocess.run(command, check=True, cwd=folder, stdout=subprocess.DEVNULL, timeout=120)

    try:
        run("initdb", "-D", data, "-A", "trust", "-U", "padim", "--no-sync")
        options = f"-p {port} -k {folder} -c listen_addresses=127.0.0.1"
        start = partial(
            run, "pg_ctl", "-D", data, "-o", options, "-l", folder / "log", "-w", "start"
        )
        stop = partial(run, "pg_ctl", "-D", data, "-m", "immediate", "-w", "stop")
        start()
        try:
            yield Server(f"postgresql://padim@127.0.0.1:{port}/postgres", stop, start)
        finally:
            stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
