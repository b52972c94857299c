"""docs/howto/serve.md, done as it says, in a shell and with a real broker."""

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from pages import ROOT, fences
from trees import striped

PAGE = ROOT / "docs/howto/serve.md"


def find_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


@contextmanager
def run_beside(command: str, workplace: Path, environment: dict[str, str]) -> Iterator[None]:
    process = subprocess.Popen(["bash", "-c", f"exec {command}"], cwd=workplace, env=environment)
    try:
        yield
    finally:
        process.terminate()
        assert process.wait(60) in (0, 143)


def wait_for(url: str) -> None:
    until_s = time.monotonic() + 60
    while True:
        try:
            urllib.request.urlopen(url).close()
            return
        except OSError:
            assert time.monotonic() < until_s
            time.sleep(0.1)


@pytest.fixture
def workplace(tmp_path: Path) -> Path:
    for seed, folder in enumerate(("good_parts", "good_parts", "new_parts", "new_parts")):
        (tmp_path / folder).mkdir(exist_ok=True)
        striped(seed, 64).save(tmp_path / folder / f"{seed % 2}.png")
    return tmp_path


@pytest.mark.slow
def test_the_page_leads_to_verdicts_over_mqtt(workplace: Path) -> None:
    if not all(map(shutil.which, ("mosquitto", "mosquitto_sub", "curl"))):
        pytest.skip("this machine has no mosquitto, or no curl")
    port, broker = find_port(), find_port()
    environment = dict(os.environ) | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}

    def adapt(text: str) -> str:
        return (
            text.replace("127.0.0.1:8000", f"127.0.0.1:{port}")
            .replace("mosquitto_sub", f"mosquitto_sub -p {broker}")
            .replace("port = 1883", f"port = {broker}")
            .replace("padim fit", "padim fit --size-px 64 --engine torch")
        )

    def run(text: str) -> str:
        done = subprocess.run(
            ["bash", "-ec", adapt(text)],
            cwd=workplace,
            env=environment,
            check=True,
            capture_output=True,
            text=True,
            timeout=300,
        )
        return done.stdout

    steps = fences(PAGE, "sh", "console")
    (fit, serve, send, settings, begin, listen, look, change, tokens, known) = steps
    run(fit[1])
    shown = f"http://127.0.0.1:{port}"
    with run_beside(f"{serve[1].strip()} --port {port}", workplace, environment):
        wait_for(f"{shown}/readyz")
        assert '"verdict":' in run(send[1])
        [program] = [one[1] for one in fences(PAGE, "python") if one[0] == "python"]
        (workplace / "send.py").write_text(adapt(program))
        assert run("python send.py").strip() in ("OK", "NOK")
        assert run(change[1]).count('"name":"part"') == 2
    shutil.rmtree(workplace / "padim-data")
    (workplace / settings[2]).write_text(adapt(settings[1]))
    folder, station = begin[1].strip().splitlines()
    run(folder)
    with (
        run_beside(f"mosquitto -p {broker}", workplace, environment),
        run_beside(f"{station} --port {port}", workplace, environment),
    ):
        wait_for(f"{shown}/readyz")
        heard = run(listen[1])
        assert "padim/" in heard
        until_s = time.monotonic() + 60
        while len(list((workplace / "incoming/done").glob("*.png"))) < 2:
            assert time.monotonic() < until_s
            time.sleep(0.1)
    assert "arrived" in run(look[1])
    assert len((workplace / "verdicts.csv").read_text().splitlines()) == 3
    said = run(tokens[1])
    assert "bench" in said
    with run_beside(f"{serve[1].strip()} --port {port}", workplace, environment):
        wait_for(f"{shown}/readyz")
        assert '"verdict":' not in run(send[1])
        assert '"verdict":' in run(known[1].replace("TOKEN", said.split()[0]))
