"""What Linux can say about other systems, by taking away what they lack; none of them was run."""

import json
import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
from trees import make_category, striped

from padim.cli import main

# Modules and names that only POSIX has. What others import of them they have by then, so that it is
# this package alone that does without. What is in `migrations` runs by Alembic alone.
WITHOUT_POSIX = """
import json, multiprocessing.popen_spawn_posix, os, signal, sys
import filelock, jinja2, matplotlib.pyplot, onnx, onnxruntime, onnxscript, openvino, platformdirs
import psutil, ray, safetensors.torch, timm, torch, torchvision

for name in "crypt curses fcntl grp nis pty pwd readline resource spwd syslog termios tty".split():
    sys.modules[name] = None
for name in (
    "O_DIRECTORY O_NOFOLLOW chown confstr fchmod fchown fork forkpty getegid geteuid getgid "
    "getloadavg getpgid getuid killpg lchown mkfifo nice register_at_fork sched_getaffinity "
    "sched_setaffinity setsid statvfs sysconf wait4"
).split():
    vars(os).pop(name, None)
for name in "SIGALRM SIGHUP SIGKILL SIGPIPE SIGUSR1 alarm setitimer".split():
    vars(signal).pop(name, None)

import importlib, pkgutil, padim
for module in pkgutil.walk_packages(padim.__path__, "padim."):
    if not module.name.endswith("__main__") and ".migrations." not in module.name:
        importlib.import_module(module.name)

from padim.cli import main
for arguments in json.loads(sys.argv[1]):
    status = main(arguments)
    assert status == 0, (arguments, status)
"""


@pytest.mark.slow
def test_everything_works_without_what_only_posix_has_simulated(tmp_path: Path) -> None:
    category = str(make_category(tmp_path / "stripes"))
    model, graph = str(tmp_path / "m.safetensors"), str(tmp_path / "m.onnx")
    small = ["--size", "64", "-q"]
    commands = [
        ["--help"],
        ["fit", category, "-o", model, *small],
        ["info", model, "-q"],
        ["export", model, "-o", graph, "-q"],
        ["predict", graph, category + "/test", "--recursive", "-o", str(tmp_path / "out"), "-q"],
        ["benchmark", category, "-o", str(tmp_path / "run"), *small],
        ["report", str(tmp_path / "run"), "-q"],
        ["doctor", graph, "-q"],
    ]
    command = [sys.executable, "-c", WITHOUT_POSIX, json.dumps(commands)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_terminal_of_windows_takes_every_file_name_simulated(tmp_path: Path) -> None:
    """cp1252 stands in for its code page: it lacks most letters, and even the arrows of ours."""
    (tmp_path / "in").mkdir()
    striped(0).save(tmp_path / "in/\u30d7\u30ec\u30fc\u30c8 \u017c.png")
    (tmp_path / "in/\u2713.png").write_bytes(b"no image")
    model = tmp_path / "m.safetensors"
    environment = {**os.environ, "PYTHONIOENCODING": "cp1252", "PYTHONUTF8": "0"}

    def run(*arguments: object) -> subprocess.CompletedProcess[bytes]:
        command = [sys.executable, "-m", "padim", *map(str, arguments)]
        return subprocess.run(command, capture_output=True, env=environment, check=False)

    for done in (
        run("--help"),
        run("fit", tmp_path / "in", "-o", model, "--size", "64", "--skip-unreadable"),
        run("predict", model, tmp_path / "in", "-o", tmp_path / "out", "--skip-unreadable"),
    ):
        assert done.returncode == 0, done.stderr
    assert b"\\u30d7\\u30ec\\u30fc\\u30c8 \\u017c.png" in done.stdout
    said = run("predict", model, tmp_path / "in", "-o", tmp_path / "out")
    assert said.returncode == 1
    assert said.stderr.startswith(b"error: ")
    assert b"\\u2713.png" in said.stderr


def is_held(path: Path) -> bool:
    """Whether this process has a file open, or mapped into memory."""
    opened = set()
    for number in Path("/proc/self/fd").iterdir():
        with suppress(FileNotFoundError):  # another thread has closed it
            opened.add(number.readlink())
    return path in opened or f"{path}\n" in Path("/proc/self/maps").read_text()


FAST = ("--recipe", "fast")  # half the network to write


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="the system does not tell")
def test_no_file_is_replaced_while_it_is_held_simulated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Windows refuses that; what holds it is most often the program itself."""
    replace, n_replaced = Path.replace, 0

    def refuse(self: Path, target: Path) -> Path:
        nonlocal n_replaced
        n_replaced += 1
        assert not is_held(self.resolve())
        assert not is_held(target.resolve())
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", refuse)
    category = make_category(tmp_path / "stripes")
    good, model = str(category / "test/good"), str(tmp_path / "m.safetensors")
    for _ in range(2):
        assert (
            main(["fit", str(category), "-o", model, "--size", "64", "--keep-moments", *FAST]) == 0
        )
        for graph in ("m.onnx", "m.xml"):
            to = "openvino" if graph == "m.xml" else "onnx"
            assert main(["export", model, "-o", str(tmp_path / graph), "--to", to]) == 0
            assert main(["calibrate", str(tmp_path / graph), good]) == 0
        assert main(["calibrate", model, good]) == 0
    assert main(["update", model, good]) == 0
    assert n_replaced > 15
