"""What a cluster is refused for, before any work. What one does is in tests/workers."""

import socket
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from trees import striped

from padim.cli import cluster, main
from padim.errors import ClusterError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "good"
    folder.mkdir()
    striped(0).save(folder / "0.png")
    return folder


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (("--cluster", "dask"), "There is no cluster 'dask'. Known: ray"),
        (("--cluster", "ray", "--tile-px", "64"), "--tile-px is not for a fit on a cluster."),
        (("--cluster", "ray", "--outlier-overlays", "x"), "--outlier-overlays is not for a fit"),
        (("--cluster", "ray", "--shard", "1/2"), "a cluster takes the looks at all shards itself"),
    ],
)
def test_a_fit_that_no_cluster_can_do_is_refused(
    folder: Path, more: Sequence[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["fit", str(folder), "-o", str(folder / "a.safetensors"), *more]) == 2
    assert words in capsys.readouterr().err


def test_a_cluster_has_its_own_workers(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = str(folder.parent / "out")
    words = ["benchmark", str(folder), "-o", out, "--cluster", "ray", "--workers", "2"]
    assert main(words) == 2
    assert "Leave --workers or --cluster out." in capsys.readouterr().err


def test_a_pipe_is_not_for_workers(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = folder.parent / "part.safetensors"
    model.touch()
    words = ["predict", str(model), "-", "-o", str(folder.parent / "out")]
    assert main([*words, "--cluster", "ray"]) == 2
    assert "--cluster out." in capsys.readouterr().err


def test_a_cluster_that_is_not_there_is_said_in_a_sentence(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    out = folder.parent / "a.safetensors"
    for address, words in (
        (f"127.0.0.1:{port}", f"There is no Ray cluster at 127.0.0.1:{port}: "),
        ("ray://127.0.0.1:1", "RAY_ADDRESS is ray://127.0.0.1:1, but needs to be HOST:PORT."),
    ):
        monkeypatch.setenv("RAY_ADDRESS", address)
        assert main(["fit", str(folder), "-o", str(out), "--cluster", "ray"]) == 1
        assert words in capsys.readouterr().err
    assert not out.exists()


@pytest.mark.parametrize(
    ("greeting", "words"), [(b"", "timed out"), (b"HTTP/1.0 400 Bad\r\n", "another server answers")]
)
def test_a_server_that_is_no_ray_is_said_in_a_sentence(
    greeting: bytes, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, ThreadPoolExecutor(1) as pool:
        taken = pool.submit(server.accept)
        pool.submit(lambda: taken.result()[0].sendall(greeting))
        monkeypatch.setattr(cluster, "_REACHED_S", 0.5)
        address = f"127.0.0.1:{server.getsockname()[1]}"
        monkeypatch.setenv("RAY_ADDRESS", address)
        with pytest.raises(ClusterError, match=f"There is no Ray cluster at {address}: {words}"):
            cluster.require_cluster("ray")
        taken.result()[0].close()


def test_without_ray_its_extra_is_named(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    assert main(["fit", str(folder), "-o", "a.safetensors", "--cluster", "ray"]) == 1
    assert "padim-efficientnet[cluster]" in capsys.readouterr().err
