"""Kills a station at random moments under load, and looks at what is left.

    cd tests && python -m serving.kills --kills 300

Pictures come by HTTP, into a watched folder and, where mosquitto is installed, over MQTT; records
go into a file. At the end each picture that was accepted has one record, whatever was killed when.
"""

import argparse
import http.client
import io
import json
import random
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

MODEL = Path(__file__).parents[1] / "kept/v1/model.onnx"
_N_FILES = 6  # of a round
_N_MESSAGES = 6
_FIRST_S = 30.0  # to the first answer, at most
_END_S = 60.0  # for the last run to finish all
_STATION = """
data = "data"
port = 0
[recipes.part]
model = "part.onnx"
deadline_ms = 20000
[[sources]]
kind = "folder"
name = "camera"
path = "inbox"
recipe = "part"
poll_s = 0.02
[[sinks]]
kind = "file"
name = "lines"
path = "records.jsonl"
"""
_MQTT = """
[[sources]]
kind = "mqtt"
name = "plc"
host = "127.0.0.1"
port = {port}
client = "padim-plc"
topic = "trigger"
recipe = "part"
folder = "pictures"
"""


@dataclass
class Sent:
    """What was handed to the station."""

    files: list[str] = field(default_factory=list)  # sha256 is not needed: each is another picture
    messages: list[str] = field(default_factory=list)
    answers: dict[str, str] = field(default_factory=dict)  # verdict by id, as HTTP told it
    n_kills: int = 0


class Broker:
    """A real mosquitto, whose sessions live as long as it does."""

    def __init__(self, folder: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            self.port = listener.getsockname()[1]
        words = ("mosquitto", "-p", str(self.port))
        self._process = subprocess.Popen(words, cwd=folder, stderr=subprocess.DEVNULL)

    def publish(self, text: str) -> None:
        """Publish a trigger, and wait until the broker has it."""
        words = ("mosquitto_pub", "-p", str(self.port), "-q", "1", "-t", "trigger", "-m", text)
        subprocess.run(words, check=True, timeout=30)

    def close(self) -> None:
        """End it."""
        self._process.kill()
        self._process.wait()


def make_picture(number: int) -> bytes:
    """A picture of its own for each number."""
    pixels = np.random.default_rng(number).integers(0, 256, (64, 64, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def start(folder: Path) -> subprocess.Popen[str]:
    """Start the station; it says where it listens once it does."""
    words = (sys.executable, "-m", "padim", "serve", "station.toml")
    return subprocess.Popen(
        words, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )


def read_url(process: subprocess.Popen[str]) -> str | None:
    """Where a station listens; None when it was killed before."""
    assert process.stdout is not None
    line = process.stdout.readline()
    return line.split()[-1] if line else None


def post(url: str, numbers: "list[int]", sent: Sent, stop: threading.Event) -> None:
    """Send pictures one after the other until the station is gone, and note the answers."""
    while numbers and not stop.is_set():
        picture = make_picture(numbers.pop())
        headers = {"Content-Type": "image/png"}
        request = urllib.request.Request(f"{url}/v1/recipes/part/inspections", picture, headers)
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                record = json.load(answer)
        except urllib.error.HTTPError as error:
            error.close()
            continue
        except (OSError, ValueError, http.client.HTTPException):
            continue  # it was not accepted, or nobody knows: then the row, if any, has a verdict
        sent.answers[record["id"]] = record["verdict"]


def run_round(folder: Path, broker: Broker | None, sent: Sent, rng: random.Random) -> None:
    """Start the station, hand it parts, and kill it."""
    process = start(folder)
    stop = threading.Event()
    first = 1000 * sent.n_kills + 1
    for number in range(first, first + _N_FILES):
        name = f"{number}.png"
        part = folder / f".{name}"
        part.write_bytes(make_picture(number))
        part.rename(folder / "inbox" / name)
        sent.files.append(name)
    if broker is not None:
        for number in range(first + 100, first + 100 + _N_MESSAGES):
            name = f"{number}.png"
            (folder / "pictures" / name).write_bytes(make_picture(number))
            broker.publish(json.dumps({"id": name, "file": name}))
            sent.messages.append(name)
    url = read_url(process)
    numbers = list(range(first + 200, first + 1000))
    poster = threading.Thread(target=post, args=(url, numbers, sent, stop))
    if url is not None:
        poster.start()
    until_s = time.monotonic() + _FIRST_S
    n_before = len(sent.answers)
    # Every other time not before the first answer, however slow the machine is.
    while sent.n_kills % 2 and len(sent.answers) == n_before and time.monotonic() < until_s:
        time.sleep(0.01)
    time.sleep(rng.uniform(0.0, 0.6))
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert process.stdout is not None
    process.stdout.close()
    stop.set()
    if url is not None:
        poster.join()
    sent.n_kills += 1


def finish(folder: Path, sent: Sent) -> None:
    """Let the station finish what is left, and end it in peace."""
    process = start(folder)
    try:
        url = read_url(process)
        assert url is not None
        until_s = time.monotonic() + _END_S
        while time.monotonic() < until_s:
            with urllib.request.urlopen(f"{url}/v1/line") as answer:
                line = json.load(answer)
            is_running = all(one["status"] == "running" for one in line["workers"])
            is_left = any(line["waiting"].values()) or list((folder / "inbox").glob("*.png"))
            if is_running and not is_left and not _count_left(folder, sent):
                break
            time.sleep(0.1)
    finally:
        process.terminate()
        assert process.wait(60) == 0
        assert process.stdout is not None
        process.stdout.close()


def _count_left(folder: Path, sent: Sent) -> int:
    from padim.store.store import Store

    store = Store.open(str(folder / "data" / "history.db"))
    n_inspected = sum(one.arrival.source == "plc" for one in store.find(limit=1_000_000))
    n_left = len(store.list_pending())
    store.close()
    return n_left + len(sent.messages) - n_inspected


def check(folder: Path, sent: Sent) -> list[str]:
    """What is not as it was promised; nothing by the promise."""
    from padim.store.store import Store

    store = Store.open(str(folder / "data" / "history.db"))
    found = {one.arrival.id: one for one in store.find(limit=1_000_000)}
    wrong = [f"{one.id} has no verdict" for one in store.list_pending()]
    store.close()
    for source, expected in (("camera", sent.files), ("plc", sent.messages)):
        names = Counter(
            one.arrival.tags.get("file", one.arrival.key)
            for one in found.values()
            if one.arrival.source == source
        )
        wrong += [
            f"{name} of {source} has {names[name]} records" for name in expected if names[name] != 1
        ]
    for id, verdict in sent.answers.items():
        if id not in found or found[id].verdict.value != verdict:
            wrong.append(f"{id} was answered as {verdict}, and is not so in the database")
    lines = [json.loads(line) for line in (folder / "records.jsonl").read_text().splitlines()]
    counts = Counter(line["id"] for line in lines)
    wrong += [f"{id} is {n} times in the file" for id, n in counts.items() if n > 1]
    wrong += [f"{id} is not in the file" for id in found if id not in counts]
    moved = len(list((folder / "inbox" / "done").iterdir()))
    if moved != len(sent.files):
        wrong.append(f"{moved} pictures were moved, of {len(sent.files)}")
    return wrong


def run(folder: Path, n_kills: int, seed: int) -> tuple[Sent, list[str]]:
    """Kill a station so often; what it was given, and what is wrong then."""
    rng, sent = random.Random(seed), Sent()
    shutil.copy(MODEL, folder / "part.onnx")
    for name in ("inbox", "pictures"):
        (folder / name).mkdir()
    broker = Broker(folder) if shutil.which("mosquitto") else None
    try:
        text = _STATION + (_MQTT.format(port=broker.port) if broker else "")
        (folder / "station.toml").write_text(text)
        finish(folder, sent)  # the broker keeps messages for those alone that it has met
        for _ in range(n_kills):
            run_round(folder, broker, sent, rng)
        finish(folder, sent)
    finally:
        if broker is not None:
            broker.close()
    return sent, check(folder, sent)


def main() -> None:
    """Run it from the command line."""
    import tempfile

    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--kills", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        sent, wrong = run(Path(name), given.kills, given.seed)
    sys.stdout.write(
        f"{sent.n_kills} kills, {len(sent.files)} files, {len(sent.messages)} messages, "
        f"{len(sent.answers)} answers over HTTP: {len(wrong)} wrong\n"
    )
    for line in wrong[:50]:
        sys.stdout.write(f"  {line}\n")
    raise SystemExit(bool(wrong))


if __name__ == "__main__":
    main()
