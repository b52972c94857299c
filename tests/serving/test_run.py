"""A service as a process of its own: how it begins and how it ends."""

import signal
import ssl
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from serving_station import MODEL

from padim.cli import main

ALONE = """
import sys
from pathlib import Path
from padim.serving.service import run_service
from padim.serving.station import Station, name_recipes
from padim.store.inspection import Arrival
picture = Path(sys.argv[2]).read_bytes()
with run_service(Station(name_recipes([Path(sys.argv[1])]), data=Path(sys.argv[3]))) as service:
    arrival = Arrival("id", "model", 1.0, "http")
    print(service.inspector.inspect(arrival, picture, 60.0).result(60).inspection.verdict)
print(sorted({"torch", "timm", "onnx"} & set(sys.modules)))
"""


@contextmanager
def serving(*words: object, cwd: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    command = [sys.executable, "-m", "padim", "serve", *map(str, words), "--port", "0"]
    process = subprocess.Popen(command, cwd=cwd, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield process, process.stdout.readline().split()[-1]
    finally:
        process.kill()
        process.communicate()


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    from trees import striped

    striped(1, 64).save(tmp_path / "part.png")
    return tmp_path / "part.png"


def test_it_runs_without_torch(tmp_path: Path, picture: Path) -> None:
    words = [sys.executable, "-c", ALONE, str(MODEL), str(picture), str(tmp_path / "data")]
    done = subprocess.run(words, check=True, capture_output=True, text=True)
    verdict, loaded = done.stdout.splitlines()
    assert verdict in ("OK", "NOK")
    assert loaded == "[]"


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_a_signal_ends_it_in_peace(tmp_path: Path, number: signal.Signals, status: int) -> None:
    with serving(MODEL, cwd=tmp_path) as (process, url):
        with urllib.request.urlopen(f"{url}/readyz") as answer:
            assert answer.status == 200
        process.send_signal(number)
        assert process.wait(60) == status
    assert (tmp_path / "padim-data/history.db").is_file()


def test_a_certificate_makes_it_https(tmp_path: Path) -> None:
    subject = ["-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"]
    words = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", *subject]
    words += ["-keyout", str(tmp_path / "key.pem"), "-out", str(tmp_path / "line.pem")]
    subprocess.run(words, check=True, capture_output=True)
    (tmp_path / "station.toml").write_text(
        f'tls_certificate = "line.pem"\ntls_key = "key.pem"\n[recipes.part]\nmodel = \'{MODEL}\'\n'
    )
    context = ssl.create_default_context(cafile=str(tmp_path / "line.pem"))
    with serving("station.toml", cwd=tmp_path) as (_, url):
        assert url.startswith("https://")
        with urllib.request.urlopen(f"{url}/readyz", context=context) as answer:
            assert answer.status == 200


FOLDER = "[[sources]]\nkind = 'folder'\nname = 'camera'\npath = '.'\n"
SINK = "[[sinks]]\nkind = 'file'\nname = 'table'\npath = 'a.csv'\n"


def write_station(folder: Path, text: str) -> Path:
    path = folder / "station.toml"
    path.write_text(text.replace("MODEL", f"'{MODEL}'"))
    return path


@pytest.mark.parametrize(
    ("text", "words", "said"),
    [
        ("[recipes.part]\nmodel = MODEL", ["--address", "0.0.0.0"], "there is no token"),
        ("[recipes.part]\nmodel = MODEL", ["--port", "70000"], "port"),
        ("[recipes.part]\nmodel = MODEL", ["--address", "203.0.113.1"], "there is no token"),
        ("[recipes.part]\nmodel = 'none.onnx'", [], "none.onnx"),
        ("[recipes.part]\nmodle = MODEL", [], "Did you mean 'model'"),
        ("[recipes.part]\nmodel = MODEL\ndeadline_ms = 0", [], "deadline_ms"),
        ("tls_certificate = 'none'\n[recipes.part]\nmodel = MODEL", [], "none does not exist"),
        ("tls_certificate = 'station.toml'\n[recipes.part]\nmodel = MODEL", [], "cannot be used"),
        ("tls_key = 'none'\n[recipes.part]\nmodel = MODEL", [], "needs a tls_certificate"),
        ("store = 'postgresql://x/y'\n[recipes.part]\nmodel = MODEL", [], "has no name"),
        ("[[sources]]\nkind = 'camera'\n[recipes.part]\nmodel = MODEL", [], "camera"),
        ("port = = 1", [], "is no TOML"),
        ("[recipes.'a/b']\nmodel = MODEL", [], "'a/b' could not be asked for by HTTP"),
        ("[recipes.'..']\nmodel = MODEL", [], "'..' could not be asked for by HTTP"),
        ("[recipes.'']\nmodel = MODEL", [], "'' could not be asked for by HTTP"),
        (f"{FOLDER}recipe = 'prat'\n[recipes.part]\nmodel = MODEL", [], "Did you mean 'part'"),
        (
            f"{SINK.replace('a.csv', '.')}[recipes.part]\nmodel = MODEL",
            [],
            "is a folder, but needs to be a file",
        ),
        (f"{SINK}recipes = ['prat']\n[recipes.part]\nmodel = MODEL", [], "Did you mean 'part'"),
    ],
)
def test_what_cannot_be_is_told_before_anything_starts(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    text: str,
    words: list[str],
    said: str,
) -> None:
    assert main(["serve", str(write_station(tmp_path, text)), *words]) == 2
    told = capsys.readouterr().err
    assert told.startswith("error: ")
    assert said in told
    assert not (tmp_path / "padim-data/history.db").exists()


def test_models_that_would_be_one_recipe_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a").mkdir()
    for path in (tmp_path / "a/part.onnx", tmp_path / "part.onnx"):
        path.write_bytes(MODEL.read_bytes())
    assert main(["serve", str(tmp_path / "a"), str(tmp_path / "part.onnx")]) == 2
    assert "would both be the recipe part" in capsys.readouterr().err
