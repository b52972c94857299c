"""A fit on many images in an object store, beside the same images in a folder (the alternative).

Quarters of photographs of solar cells at 128 px. The store is moto's, an S3 in a process of this
machine; so the network costs nothing, and the store takes cores of its own from the fit. The model
must have the same bytes, and no file of an image may be on the disk meanwhile.
"""

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import NamedTuple

import boto3
import measure
from cells import photographs
from PIL import Image

MOST_MEMORY = 1.2
N_IMAGES, N_QUICK, N_ROUNDS = 10_000, 40, 2
BUCKET = "parts"


class Fitted(NamedTuple):
    """What a fit took."""

    seconds: float
    peak_bytes: float
    most_files: float  # of images, on the disk at a time


def cut_quarters(folder: Path, n_images: int) -> None:
    """Write quarters of photographs, as many as wanted; there are 10,496."""
    folder.mkdir()
    for number, path in enumerate(photographs()[: -(-n_images // 4)]):
        image = Image.open(path)
        width, height = image.width // 2, image.height // 2
        for quarter in range(min(4, n_images - 4 * number)):
            x, y = quarter % 2 * width, quarter // 2 * height
            piece = image.crop((x, y, x + width, y + height))
            piece.save(folder / f"{4 * number + quarter:05}.png")


def start_store(folder: Path) -> subprocess.Popen[bytes]:
    """Start an object store that has the images of a folder; the environment names it."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    moto = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    server = subprocess.Popen(moto, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    os.environ["AWS_ENDPOINT_URL"] = f"http://127.0.0.1:{port}"
    os.environ["AWS_ACCESS_KEY_ID"] = os.environ["AWS_SECRET_ACCESS_KEY"] = "one"
    os.environ["AWS_DEFAULT_REGION"] = "us-east-1"
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            break
        except OSError:
            time.sleep(0.1)
    client = boto3.client("s3")
    client.create_bucket(Bucket=BUCKET)
    for path in folder.iterdir():
        client.put_object(Bucket=BUCKET, Key=f"good/{path.name}", Body=path.read_bytes())
    return server


def fit(images: str, folder: Path) -> Fitted:
    """Fit in a process of its own; its seconds, peak memory, and files of images on the disk."""
    temporary, done, most = folder / "tmp", threading.Event(), 0
    temporary.mkdir(parents=True)

    def watch() -> None:
        nonlocal most
        while not done.wait(0.2):
            most = max(most, sum(1 for path in temporary.rglob("*.png")))

    watcher = threading.Thread(target=watch)
    watcher.start()
    words = ["fit", images, "-o", str(folder / "part.safetensors"), "--size-px", "128", "--json"]
    start = time.perf_counter()
    said = subprocess.run(
        [sys.executable, "-m", "padim", *words],
        env=os.environ | {"TMPDIR": str(temporary)},
        stdout=subprocess.PIPE,
        check=True,
    ).stdout
    taken = time.perf_counter() - start
    done.set()
    watcher.join()
    return Fitted(taken, json.loads(said)["peak_bytes"], most)


def main() -> None:
    """Fit on both in turn."""
    quick = measure.arguments(__doc__).quick
    n_images, n_rounds = (N_QUICK, 1) if quick else (N_IMAGES, N_ROUNDS)
    about = measure.facts(("moto", "s3fs", "fsspec"))
    rounds: list[dict[str, Fitted]] = []
    with tempfile.TemporaryDirectory() as place:
        root = Path(place)
        measure.say(f"{n_images} images")
        cut_quarters(root / "good", n_images)
        server = start_store(root / "good")
        try:
            cut_quarters(root / "few", 8)
            fit(str(root / "few"), root / "warm")  # the network's graph is written by it
            for number in range(n_rounds):
                measure.say(f"round {number + 1}")
                taken: dict[str, Fitted] = {}
                for kind, images in (
                    ("folder", str(root / "good")),
                    ("store", f"s3://{BUCKET}/good"),
                ):
                    taken[kind] = fit(images, root / kind)
                models = [(root / kind / "part.safetensors").read_bytes() for kind in taken]
                if models[0] != models[1]:
                    raise SystemExit("The models are not the same.")
                rounds.append(taken)
                for kind in taken:
                    shutil.rmtree(root / kind)
        finally:
            server.kill()
            server.wait()
    spreads = {
        kind: {
            name: measure.Spread(tuple(getattr(one[kind], name) for one in rounds))
            for name in Fitted._fields
        }
        for kind in ("folder", "store")
    }
    measure.print_table(
        ("images in", "fit, s", "peak, MB", "files of images written"),
        [
            (
                kind,
                found["seconds"].shown(),
                found["peak_bytes"].shown(1e-6, 0),
                f"{max(found['most_files'].values):.0f}",
            )
            for kind, found in spreads.items()
        ],
    )
    memory = spreads["store"]["peak_bytes"].over(spreads["folder"]["peak_bytes"])
    seconds = spreads["store"]["seconds"].over(spreads["folder"]["seconds"])
    aims = [
        measure.Aim("memory of a fit on a store over that on a folder", memory.median, MOST_MEMORY),
        measure.Aim(
            "files of images on the disk", max(spreads["store"]["most_files"].values), 0, digits=0
        ),
    ]
    content = {
        "n_images": n_images,
        "fits": {
            kind: {name: found.to_json() for name, found in of.items()}
            for kind, of in spreads.items()
        },
        "store_over_folder": {"seconds": seconds.to_json(), "peak_bytes": memory.to_json()},
        "aims": measure.judge(aims),
    }
    measure.finish("remote", about, content, quick=quick)


if __name__ == "__main__":
    main()
