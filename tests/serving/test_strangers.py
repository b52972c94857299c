"""Programs of others judge the service: schemathesis its schema, promtool its metrics."""

import io
import shutil
import subprocess
import sys
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image
from serving_station import Running

# Bytes that are drawn are seldom a picture or a model, and 503 is declared; what is not declared is
# another check's to find, a 500 among it.
LEFT_OUT = "positive_data_acceptance,not_a_server_error"
SETTINGS = '[parameters]\n"path.recipe" = "part"\n"path.model" = "part"\n'


@pytest.mark.slow
def test_schemathesis_finds_only_what_is_declared(running: Running, tmp_path: Path) -> None:
    (tmp_path / "schemathesis.toml").write_text(SETTINGS)
    words = [sys.executable, "-m", "schemathesis.cli", "run", f"{running.url}/openapi.json"]
    words += ["--max-time", "12", "-n", "20", "--seed", "1", "--exclude-checks", LEFT_OUT]
    words += ["--generation-database", "none", "--no-color"]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    assert httpx.get(f"{running.url}/readyz").status_code == 200


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool of Prometheus is needed")
def test_promtool_finds_nothing_to_say_of_the_metrics(client: httpx.Client) -> None:
    file = io.BytesIO()
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(file, "PNG")
    client.post("/v1/recipes/part/inspections", content=file.getvalue())
    client.post("/v1/recipes/part/inspections", content=b"no picture")
    metrics = client.get("/metrics").content
    assert b'padim_inspections_total{recipe="part",verdict="NOT INSPECTED"}' in metrics
    words = ["promtool", "check", "metrics"]
    done = subprocess.run(words, input=metrics, capture_output=True, timeout=30)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
