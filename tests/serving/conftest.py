from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from darkness import make_predictor
from serving_station import Running, make_station, run_over_http

from padim.scoring.predictor import Predictor


@pytest.fixture
def predictor(tmp_path: Path) -> Predictor:
    return make_predictor(tmp_path)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """One for all tests of a file."""
    with run_over_http(make_station(tmp_path_factory.mktemp("station"))) as running:
        yield running


@pytest.fixture
def client(running: Running) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=running.url, timeout=60) as client:
        yield client
