"""A station that is killed at any moment: nothing is lost, and nothing comes twice."""

import json
import os
import random
import sqlite3
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import pytest

from padim.store.store import Store

# `PADIM_KILLS=300 pytest tests/line/test_kills.py` is the long form.
N_KILLS = int(os.environ.get("PADIM_KILLS", "15"))
SEED = int(os.environ.get("PADIM_KILLS_SEED", "0"))
_MOST_WAITING = 200  # pictures, so that the end does not take long
_TESTS = Path(__file__).parents[1]


def start(folder: Path) -> subprocess.Popen[str]:
    with (folder / "log").open("a") as log:
        process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("killed.py")), str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            env=os.environ | {"PYTHONPATH": str(_TESTS)},
        )
    assert process.stdout is not None
    assert process.stdout.readline() == "working\n", (folder / "log").read_text()
    return process


class Camera:
    """Puts pictures into a folder, some slowly, some by a rename, until it is stopped."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder = folder
        self.names: list[str] = []
        self._random = random.Random(seed)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(self._random.uniform(0, 0.02)):
            if sum(1 for _ in self.folder.iterdir()) > _MOST_WAITING:
                continue
            name = f"{len(self.names):06}.png"
            content = picture(name)
            if self._random.random() < 0.5:
                (self.folder / f"{name}.tmp").write_bytes(content)
                (self.folder / f"{name}.tmp").rename(self.folder / name)
            else:
                with (self.folder / name).open("wb", buffering=0) as file:
                    file.write(content[: len(content) // 2])
                    time.sleep(0.005)
                    file.write(content[len(content) // 2 :])
            self.names.append(name)


def picture(name: str) -> bytes:
    return name.encode() * 50


@pytest.mark.slow
def test_after_kills_at_any_moment_each_picture_has_one_verdict_in_one_line(
    tmp_path: Path,
) -> None:
    inbox = tmp_path / "in"
    inbox.mkdir()
    draw = random.Random(SEED)
    camera = Camera(inbox, SEED)
    for _ in range(N_KILLS):
        process = start(tmp_path)
        time.sleep(draw.uniform(0.0, 0.5))
        process.kill()
        process.communicate()
        Store.open(str(tmp_path / "station.db")).close()
    camera.stop()

    process = start(tmp_path)
    end_s = time.monotonic() + 60
    while list(inbox.glob("*.png")) and time.monotonic() < end_s:
        time.sleep(0.05)
    process.communicate(timeout=30)
    assert process.returncode == 0

    names = camera.names
    assert len(names) > 5 * N_KILLS
    moved = Counter(path.name for place in ("done", "failed") for path in (inbox / place).iterdir())
    assert moved == Counter(names)
    assert all((path.read_bytes() == picture(path.name)) for path in inbox.glob("*/*.png"))

    lines = (tmp_path / "records.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    assert Counter(record["tags"]["file"] for record in records) == Counter(names)

    with sqlite3.connect(tmp_path / "station.db") as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    connection.close()
    store = Store.open(str(tmp_path / "station.db"))
    assert store.list_pending() == []
    assert store.count_outbox("records") == 0
    assert sum(store.count_verdicts().values()) == len(names)
    verdicts = {record["id"]: record["verdict"] for record in records}
    for id, verdict in verdicts.items():
        known = store.get(id)
        assert known is not None
        assert known.verdict == verdict  # type: ignore[union-attr]  # one that is pending has none
    store.close()
