"""A graph in a file, batched by whoever runs it."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from padim.errors import ModelFileError, PathMissingError
from padim.files import complete
from padim.scoring.engines import (
    BATCHES,
    ENGINES,
    OWN_RATES,
    WHOLE,
    Arrays,
    Setup,
    check_calls,
    check_precision,
    choose_graph_device,
    choose_threads,
    graph_engine,
    require_engine,
)
from padim.scoring.graph_file import begin_reading, no_image_graph
from padim.scoring.operators import check_operators


class Graph:
    """A graph loaded once; running it changes nothing, so threads may share it.

    Args:
        path: An ``.onnx`` file, or an OpenVINO ``.xml`` with its ``.bin`` beside it.
        engine: As for `graph_engine`.
        n_threads: As for `choose_threads`.
        precision: ``float32``, or ``bfloat16`` for the products with the whitening rows: half the
            bytes to read. The trunk stays in float32: what it loses, whitening would magnify.
        device: As for `choose_graph_device`.
        n_calls: Calls that run at a time, each from a thread of its own.

    Attributes:
        n_step: Images that it runs at a time.
    """

    def __init__(
        self,
        path: Path,
        engine: str = "auto",
        n_threads: int | None = None,
        precision: str = "float32",
        device: str = "auto",
        n_calls: int = 1,
    ) -> None:
        with suppress(OSError):  # where it cannot be, the engine says what is wrong
            complete(path)
        if not path.is_file():
            raise PathMissingError(path)
        self.path = path
        self.engine = graph_engine(path, engine)
        check_precision(self.engine, precision)
        on_device = choose_graph_device(self.engine, device)
        check_calls(n_calls)
        self.setup = Setup(choose_threads(n_threads), precision, on_device, n_calls)
        require_engine(self.engine)
        row = ENGINES[self.engine]
        with ThreadPoolExecutor(2) as executor:
            reading = executor.submit(begin_reading, path, executor)
            module = row.load()
            file = reading.result()
            self.is_sealed = file.is_sealed
            try:
                check_operators(file)
                self.runtime = module.open_graph(file, self.setup)
            finally:  # what is damaged is called so, whatever else has been found in it
                self.file_sha256 = file.check()
        if len(self.runtime.shape) != 4:
            raise no_image_graph(path)
        n_batch, height, width, _ = self.runtime.shape
        self.n_batch = n_batch
        self.n_step = n_batch or BATCHES[self.setup.device]
        self.size_px = height, width

    def show_twice(self) -> None:
        """Take half as many images at a time, for a network that sees each twice."""
        self.n_step = self.n_batch or BATCHES[self.setup.device] // 2

    def __reduce__(self) -> tuple[object, ...]:
        return _open_again, (self.path, self.engine, self.setup, self.n_step, self.file_sha256)

    def __call__(self, images: NDArray[np.uint8], rates: Sequence[float] = OWN_RATES) -> Arrays:
        """Run a batch of one image or more: RGB ``(N, H, W, 3)`` to outputs of N.

        Args:
            images: Any number of them.
            rates: The ``RATES`` that a graph with a verdict takes; others take none.
        """
        step = self.n_step
        parts = [self._run(images[i : i + step], rates) for i in range(0, len(images), step)]
        if len(parts) == 1:
            return parts[0]
        return tuple(np.concatenate(outputs) for outputs in zip(*parts, strict=True))

    def _run(self, images: NDArray[np.uint8], rates: Sequence[float]) -> Arrays:
        n_images = len(images)
        n_run = self.n_step
        if self.n_batch is None and (self.runtime.any_batch or n_images == 1):
            n_run = n_images
        rest = np.repeat(images[-1:], n_run - n_images, axis=0)
        whole = np.concatenate((images, rest)) if len(rest) else np.ascontiguousarray(images)
        outputs = self.runtime.run(whole, rates)
        if any(
            output.dtype != (np.uint8 if name in WHOLE else np.float32)
            or output.shape[:1] != (n_run,)
            for name, output in zip(self.runtime.names, outputs, strict=True)
        ):
            raise ModelFileError(
                f"{self.path} gives something else than scores. Copy it again, or export it anew."
            )
        return tuple(output[:n_images] for output in outputs)


def _open_again(path: Path, engine: str, setup: Setup, n_step: int, file_sha256: str) -> Graph:
    """Open a graph in another process, where its file needs to be the same."""
    graph = Graph(path, engine, **asdict(setup))
    graph.n_step = n_step
    if graph.file_sha256 != file_sha256:
        raise ModelFileError(f"{path} has changed since it was loaded. Load it again.")
    return graph
