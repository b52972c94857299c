import dataclasses
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from serving_station import Running, make_station, run_over_http

from padim.serving.tokens import TOKENS, add_token, remove_token


@pytest.fixture(scope="module")
def reachable(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A service that was told to listen where other machines can reach it."""
    station = make_station(tmp_path_factory.mktemp("reachable"))
    with run_over_http(dataclasses.replace(station, address="0.0.0.0")) as running:
        yield running


@pytest.mark.parametrize("host", ["localhost", "0.0.0.0", "line.plant"])
def test_who_removes_the_last_token_lets_nobody_in(reachable: Running, host: str) -> None:
    path = reachable.service.station.data / TOKENS
    token = add_token(path, "bench", "engineer")
    headers = {"Host": host, "Authorization": f"Bearer {token}"}
    url = f"{reachable.url}/v1/recipes"
    assert httpx.get(url, headers=headers).status_code == 200
    remove_token(path, "bench")
    assert httpx.get(url, headers=headers).status_code == 401
    path.unlink()
    answer = httpx.get(url, headers=headers)
    assert answer.status_code == 401
    assert "padim tokens add" in answer.json()["error"]


def test_a_damaged_file_of_tokens_lets_nobody_in_until_it_is_mended(
    reachable: Running, caplog: pytest.LogCaptureFixture
) -> None:
    path = reachable.service.station.data / TOKENS
    headers = {"Authorization": f"Bearer {add_token(path, 'bench', 'engineer')}"}
    url, whole = f"{reachable.url}/v1/recipes", path.read_bytes()
    assert httpx.get(url, headers=headers).status_code == 200
    path.write_bytes(whole[:20])
    for _ in range(2):
        answer = httpx.get(url, headers=headers)
        assert answer.status_code == 401
        assert "cannot be read" in answer.json()["error"]
        assert str(path.parent) not in answer.text
    assert "cannot be understood" in caplog.text
    path.write_bytes(whole)
    assert httpx.get(url, headers=headers).status_code == 200


def test_the_file_of_tokens_may_be_a_folder(tmp_path: Path) -> None:
    with run_over_http(make_station(tmp_path)) as running:
        (tmp_path / TOKENS).mkdir()
        assert httpx.get(f"{running.url}/v1/recipes").status_code == 401
