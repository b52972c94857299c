"""A Ray of two nodes, of which one is lost."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from trees import striped

from padim.errors import ClusterError
from padim.fitting.looks import Begin, no_progress
from padim.fitting.settings import FitSettings
from padim.fitting.spread import fit_by
from padim.model.pair import save_pair
from padim.workers.protocol import Workers
from padim.workers.ray_cluster import connect

pytestmark = pytest.mark.slow

# Two nodes on this machine; the second goes as soon as some images have been looked at.
LOSE = """
import sys, threading, time
from pathlib import Path
from padim.workers.ray_cluster import RayCluster
import ray
from ray.cluster_utils import Cluster
from test_ray_nodes import fit

cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
node = cluster.add_node(num_cpus=1)
ray.init(address=cluster.address, log_to_driver=False)
gone = threading.Thread(target=lambda: cluster.remove_node(node, allow_graceful=False))

def begin(phase, n_steps):
    def advance(n):
        if phase == "fit" and n and not gone.ident:
            gone.start()
    return advance

good, folder = map(Path, sys.argv[1:])
fit(RayCluster(), good, folder / "lost.safetensors", begin)
gone.join(60)
while sum(one["Alive"] for one in ray.nodes()) == 2:
    time.sleep(0.1)
fit(RayCluster(), good, folder / "left.safetensors")
ray.shutdown()
cluster.shutdown()
"""


def fit(workers: Workers, good: Path, out: Path, begin: Begin = no_progress) -> None:
    settings = FitSettings(size_px=(64, 64), keep_moments=True, n_threads=1)
    images = sorted(good.iterdir())
    fitted = fit_by(workers, images, settings, None, out.with_suffix(".begun"), begin)
    assert fitted.moments is not None
    save_pair(fitted.state, fitted.moments, out)


def test_a_ray_that_does_not_start_is_an_error_simulated(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_words: object, **_more: object) -> None:
        raise Exception("The current node timed out during startup.\nAnd more of it.")

    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr("ray.is_initialized", lambda: False)
    monkeypatch.setattr("ray.init", refuse)
    words = r"^Ray cannot be used: The current node timed out during startup\. See whether disk"
    with pytest.raises(ClusterError, match=words), connect():
        pass


def test_a_lost_node_costs_its_pieces_alone(tmp_path: Path) -> None:
    good = tmp_path / "good"
    good.mkdir()
    for i in range(12):
        striped(i).save(good / f"{i:02}.png")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    environment.pop("RAY_ADDRESS", None)
    subprocess.run(
        [sys.executable, "-c", LOSE, good, tmp_path], env=environment, check=True, timeout=180
    )
    for name in ("{}.safetensors", "{}.moments.safetensors"):
        lost, left = ((tmp_path / name.format(which)).read_bytes() for which in ("lost", "left"))
        assert lost == left
