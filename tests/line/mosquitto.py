"""Debian's broker, started by tests."""

import shutil
import socket
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

PROGRAM = shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin:/usr/local/sbin")
PASSWORDS = shutil.which("mosquitto_passwd")


def find_free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as held:
        return int(held.getsockname()[1])


class Broker:
    """A broker on a free port, which keeps its messages when it is started again."""

    def __init__(self, folder: Path, lines: Sequence[str] = ("allow_anonymous true",)) -> None:
        self.port = find_free_port()
        folder.mkdir(exist_ok=True)
        self._settings = folder / "mosquitto.conf"
        settings = [
            "per_listener_settings false",
            f"listener {self.port} 127.0.0.1",
            "persistence true",
            f"persistence_location {folder}/",
            "user root",
            *lines,
        ]
        self._settings.write_text("\n".join(settings) + "\n")
        self._log = folder / "broker.log"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        assert PROGRAM is not None
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [PROGRAM, "-c", str(self._settings)], stdout=log, stderr=log
            )
        end_s = time.monotonic() + 10
        while time.monotonic() < end_s:
            with suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
                return
            assert self._process.poll() is None, self._log.read_text()
            time.sleep(0.02)
        raise AssertionError("the broker does not listen")

    def wait_for_farewell(self, client: str, n_times: int = 1) -> None:
        """Wait until a client has said farewell so often, and all before that has been read.

        One that is back sooner takes the place of its old connection, whose rest nobody reads.
        """
        end_s = time.monotonic() + 30
        while self._log.read_text().count(f"Client {client} disconnected.") < n_times:
            assert time.monotonic() < end_s, self._log.read_text()
            time.sleep(0.02)

    def stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait(10)
            self._process = None
