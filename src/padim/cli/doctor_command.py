"""``padim doctor``."""

import importlib.util
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from padim.cli import options
from padim.cli.console import align, result, say, table
from padim.doctor import Machine, Timing, examine, time_default, time_graph
from padim.errors import PathMissingError, install_command
from padim.memory import format_bytes
from padim.scoring.engines import ENGINES, graph_engine


def doctor(
    graph: Annotated[
        Path | None,
        typer.Argument(help="An .onnx or .xml file to time instead of the default backbone."),
    ] = None,
    threads: options.Threads = None,
) -> None:
    """Say what this machine has, and how fast its engines score."""
    if graph is not None:
        if not graph.is_file():
            raise PathMissingError(graph)
        graph_engine(graph, "auto")
    machine = examine()
    can_fit = importlib.util.find_spec("timm") is not None and "torch" in machine.engines
    chosen = _choose_engines(machine, can_fit)
    advice = _advise(machine, can_fit)
    say(_describe(machine, chosen))
    timings: list[Timing] = []
    if graph is not None:
        say(f"Timing {graph}, one image at a time.")
        timings = time_graph(graph, threads)
    elif can_fit:
        say("Timing the default backbone and recipe, one image at a time: about 20 seconds.")
        timings = time_default(threads)
    else:
        say("Nothing is timed: name an exported graph, or install the extra fit.")
    document = {
        **asdict(machine),
        "auto": chosen,
        "timings": [asdict(timing) for timing in timings],
        "advice": advice,
    }
    result(document, "\n".join([*_list_timings(timings), *advice]))


def _choose_engines(machine: Machine, can_fit: bool) -> dict[str, str]:
    """What ``--engine auto`` takes for each kind of file, and why."""
    chosen = {".safetensors": "none: a model file needs the extra fit"}
    if can_fit:
        from padim.features.network import choose_device, choose_engine

        device = choose_device("auto")
        engine = choose_engine("auto", device, "float32")
        where = "on the CPU" if device.type == "cpu" else f"on {device.type}"
        rest = "" if engine == "torch" else ", torch for the distances"
        chosen[".safetensors"] = f"{engine} for the trunk{rest}: the fastest in float32 {where}"
    for engine, facts in ENGINES.items():
        if facts.written:
            chosen[facts.written] = (
                f"{engine}: the graph was written for it, and compared with torch in it"
                if engine in machine.engines
                else f"none: the extra {facts.extra} is not installed"
            )
    return chosen


def _advise(machine: Machine, can_fit: bool) -> list[str]:
    advice = []
    if "openvino" not in machine.engines:
        advice.append(
            "OpenVINO is not installed; it can multiply in bfloat16: " + install_command("openvino")
        )
    if not can_fit:
        advice.append(f"To fit models here: {install_command('fit')}")
    if machine.instructions is not None and not {"avx2", "asimd"} & set(machine.instructions):
        advice.append("No vector instructions were found: every engine is slow here.")
    return advice


def _describe(machine: Machine, chosen: dict[str, str]) -> str:
    instructions = "unknown"
    if machine.instructions is not None:
        instructions = ", ".join(machine.instructions) or "none of those that matter"
    engines = ", ".join(f"{name} {version}" for name, version in machine.engines.items())
    lines = {
        "processor": machine.cpu,
        "cores": str(machine.n_cores),
        "instructions": instructions,
        "memory": format_bytes(machine.memory_bytes),
        "accelerators": ", ".join(machine.accelerators) or "none",
        "engines": engines,
        **{f"auto, {suffix}": engine for suffix, engine in chosen.items()},
    }
    return align(lines)


def _list_timings(timings: list[Timing]) -> list[str]:
    if not timings:
        return []
    columns = ["engine", "products in", "ms an image"]
    has_parts = any(timing.trunk_ms is not None for timing in timings)
    if has_parts:
        columns += ["of it trunk", "head"]
    rows = []
    for timing in timings:
        row = [timing.engine, timing.precision, f"{timing.image_ms:.1f}"]
        if timing.trunk_ms is not None:
            row += [f"{timing.trunk_ms:.1f}", f"{timing.image_ms - timing.trunk_ms:.1f}"]
        elif has_parts:
            row += ["", ""]
        rows.append(row)
    return [table(columns, rows)]
