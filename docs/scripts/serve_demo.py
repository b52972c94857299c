"""A station with the demo's model, whose photographs come into its watched folder by themselves.

``make serve`` runs it, after ``padim demo``.
"""

import random
import sys
import threading
import time
from pathlib import Path

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from padim.cli import main
from padim.datasets import list_images

DEMO = Path("demo")
_PAUSE_S = 2.0  # between two parts
_STATION = """\
[recipes.cell]
model = "{model}"

[retention]
ok_every = 1
most_bytes = 500_000_000

[[sources]]
kind = "folder"
name = "camera"
path = "inbox"
recipe = "cell"
delete_done = true

[[sinks]]
kind = "file"
name = "records"
path = "records.csv"
"""


def feed(images: list[Path], inbox: Path, stop: threading.Event) -> None:
    """Put one photograph after the other into a folder, each whole at once."""
    while not stop.wait(_PAUSE_S):
        image = random.choice(images)
        place = inbox / image.name
        partial = inbox.parent / place.name
        taken = PngInfo()  # the same bytes would be the same part, which is inspected once
        taken.add_text("taken", str(time.time_ns()))
        with Image.open(image) as photograph:
            photograph.save(partial, "PNG", pnginfo=taken)
        partial.replace(place)


def serve_demo() -> int:
    """Run the station until it is ended; the exit status."""
    station, stop = DEMO / "station", threading.Event()
    (station / "inbox").mkdir(parents=True, exist_ok=True)
    model = (DEMO / "results/models/solar_mono.safetensors").resolve()
    (station / "station.toml").write_text(_STATION.format(model=model.as_posix()))
    images = list_images(DEMO / "data/solar_mono/test", recursive=True)
    threading.Thread(target=feed, args=(images, station / "inbox", stop), daemon=True).start()
    try:
        return main(["serve", str(station / "station.toml")])
    finally:
        stop.set()


if __name__ == "__main__":
    sys.exit(serve_demo())
