"""What this machine has, what would compute here and why, and how fast that is."""

import importlib.util
import platform
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from padim.model.opening import load
from padim.scoring.engines import ENGINES, EngineFacts, engines_of, n_cores
from padim.temporary import TemporaryFolder

# What makes a convolution or a product faster, in the words of /proc/cpuinfo.
_INSTRUCTIONS = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16", "asimd", "sve")
_TIMED_S = 0.5  # each row


@dataclass(frozen=True)
class Machine:
    """What a machine has."""

    cpu: str
    n_cores: int  # cores that this process may use
    # Those of vectors that matter here; None where they cannot be told.
    instructions: tuple[str, ...] | None
    memory_bytes: int
    accelerators: tuple[str, ...]  # names of what else could compute
    engines: dict[str, str]  # version of each installed engine


@dataclass(frozen=True)
class Timing:
    """How long an engine takes for one image."""

    engine: str
    precision: str  # what the products with the whitening rows are computed in
    image_ms: float  # milliseconds from pixels to map and score, the median
    trunk_ms: float | None = None  # the trunk's alone; None where it is not timed


def examine() -> Machine:
    """Look at this machine."""
    import psutil

    facts = _read_cpu_facts()
    flags = facts.get("flags", facts.get("Features", "")).split()
    return Machine(
        cpu=facts.get("model name") or platform.processor() or platform.machine(),
        n_cores=n_cores(),
        instructions=tuple(name for name in _INSTRUCTIONS if name in flags) if flags else None,
        memory_bytes=psutil.virtual_memory().total,
        accelerators=tuple(_find_accelerators()),
        engines={engine: facts.version() for engine, facts in ENGINES.items() if _runs_here(facts)},
    )


def time_graph(path: Path, n_threads: int | None) -> list[Timing]:
    """Time an exported graph on one image of noise, in each engine that runs it on a CPU here.

    There is a thread for each core when their number is None.
    """
    timings = []
    for engine in engines_of(path):
        facts = ENGINES[engine]
        if not _runs_here(facts):
            continue
        for precision in facts.precisions:
            predictor = load(path, engine=engine, n_threads=n_threads, precision=precision)
            image = _make_noise(1, predictor.camera_px or predictor.preprocess.size_px)
            timings.append(Timing(engine, precision, _time_ms(predictor.score, image)))
    return timings


def time_default(n_threads: int | None) -> list[Timing]:
    """Time the default backbone and recipe on one image of noise, in each engine.

    The whitening rows are those of two images of noise: time does not depend on them. There is a
    thread for each core when their number is None.

    Raises:
        MissingExtraError: The extra ``fit`` is not installed.
    """
    import torch

    from padim.fitting.prepare import prepare
    from padim.fitting.settings import FitSettings
    from padim.model.export import export
    from padim.model.file import load_state, save_state
    from padim.model.padim import network_of

    with TemporaryFolder() as folder:
        model, graph = folder / "model.safetensors", folder / "model.onnx"
        settings = FitSettings(device="cpu", engine="torch", n_threads=n_threads)
        fitter = prepare(settings)
        size_px = fitter.encoder.preprocess.size_px
        save_state(fitter.fit(list(_make_noise(2, size_px))).state, model)
        export(model, graph)
        state = load_state(model)
        pixels = _make_noise(1, size_px)
        in_torch = load(model, engine="torch", n_threads=n_threads, device="cpu")
        image_ms = _time_ms(in_torch.score, pixels)
        timings = [Timing("torch", "float32", image_ms), *time_graph(graph, n_threads)]
        trunk_ms: dict[str, float] = {}
        for engine in {timing.engine for timing in timings}:
            trunk = network_of(state).features(engine, n_threads)
            with torch.inference_mode():
                trunk_ms[engine] = _time_ms(trunk, torch.from_numpy(pixels))
    return [replace(timing, trunk_ms=trunk_ms[timing.engine]) for timing in timings]


def _runs_here(engine: EngineFacts) -> bool:
    """Whether an engine is installed, and computes on a CPU."""
    return "cpu" in engine.devices and importlib.util.find_spec(engine.package) is not None


def _make_noise(n_images: int, size_px: tuple[int, int]) -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (n_images, *size_px, 3), dtype=np.uint8)


def _time_ms(run: Callable[[Any], object], images: object) -> float:
    taken: list[float] = []
    for _ in range(3):
        run(images)
    end = time.perf_counter() + _TIMED_S
    while time.perf_counter() < end:
        start = time.perf_counter()
        run(images)
        taken.append(time.perf_counter() - start)
    return statistics.median(taken) * 1e3


def _read_cpu_facts() -> dict[str, str]:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return {}
    first, *_ = text.split("\n\n")
    pairs = (line.partition(":") for line in first.splitlines())
    return {key.strip(): value.strip() for key, _, value in pairs}


def _find_accelerators() -> Iterator[str]:
    if importlib.util.find_spec("torch") is not None:
        import torch

        for i in range(torch.cuda.device_count()):
            yield f"{torch.cuda.get_device_name(i)} (torch)"
    if importlib.util.find_spec("openvino") is not None:
        ENGINES["openvino"].load()  # without its telemetry
        import openvino

        core = openvino.Core()
        for device in core.available_devices:
            if device != "CPU":
                yield f"{core.get_property(device, 'FULL_DEVICE_NAME')} (OpenVINO)"
