"""A service that runs over HTTP, for tests."""

import shutil
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from padim.serving.run import make_server
from padim.serving.service import Service, run_service
from padim.serving.station import Computing, RecipeSettings, Station

MODEL = Path(__file__).parent / "kept/v1/model.onnx"  # quick, and calibrated


@dataclass(frozen=True)
class Running:
    """A service that answers over HTTP."""

    service: Service
    address: tuple[str, int]

    @property
    def url(self) -> str:
        return f"http://{self.address[0]}:{self.address[1]}"


def make_station(data: Path) -> Station:
    """One recipe, ``part``, of a quick model."""
    model = data / "part.onnx"
    shutil.copy(MODEL, model)
    recipes = {"part": RecipeSettings(model, deadline_ms=20_000)}
    return Station(recipes, data=data, computing=Computing(n_threads=1))


@contextmanager
def run_over_http(station: Station) -> Iterator[Running]:
    """Run a station in threads, on a port that is free."""
    with socket.create_server(("127.0.0.1", 0)) as listener, run_service(station) as service:
        server = make_server(service)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            running = Running(service, listener.getsockname())
            deadline_s = time.monotonic() + 30
            while not server.started:
                assert time.monotonic() < deadline_s
                time.sleep(0.01)
            yield running
        finally:
            server.should_exit = True
            thread.join()
