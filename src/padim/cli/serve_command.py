"""``padim serve``."""

import logging
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from padim.cli import options
from padim.cli.console import Output, say
from padim.cli.options import option
from padim.errors import PathMissingError, UsageError, require_extras
from padim.memory import parse_bytes

STATION = ".toml"


def serve(
    models: Annotated[
        list[Path], typer.Argument(help="Models, each a recipe of its name; or one station.toml.")
    ],
    running: options.Running,
    address: Annotated[str | None, option("Where it listens: 127.0.0.1.", "HOST")] = None,
    port: Annotated[int | None, option("Where it listens: 8000.", "N")] = None,
    data: Annotated[
        Path | None, option("Folder of the database and the pictures: padim-data.", "DIR")
    ] = None,
    deadline_ms: Annotated[
        float | None, option("From a picture to its answer, at most: 5000.", "MS")
    ] = None,
    false_alarm_rate: options.FalseAlarmRate = None,
    pixel_false_alarm_rate: options.PixelFalseAlarmRate = None,
    memory: Annotated[
        str | None, option("Memory for models; those unused longest go first.", "BYTES")
    ] = None,
) -> None:
    """Inspect pictures that other programs send, over HTTP."""
    require_extras("serve")
    from padim.serving.run import serve as run
    from padim.serving.station import Station, name_recipes, read_station

    for path in models:
        if not path.exists():
            raise PathMissingError(path)
    if any(path.suffix.lower() == STATION for path in models):
        if len(models) > 1:
            raise UsageError("A station.toml names its models itself. Give it alone.")
        station = read_station(models[0])
    else:
        station = Station(name_recipes(models))
    station = replace(
        station,
        address=station.address if address is None else address,
        port=station.port if port is None else port,
        data=station.data if data is None else data,
        computing=replace(
            station.computing,
            **running,
            most_bytes=station.computing.most_bytes if memory is None else parse_bytes(memory),
        ),
        recipes={
            name: one.choose(deadline_ms, false_alarm_rate, pixel_false_alarm_rate)
            for name, one in station.recipes.items()
        },
    )
    logging.basicConfig(
        format="%(asctime)s %(levelname)s %(message)s",
        level=logging.INFO if Output.verbose else logging.WARNING,
    )
    run(station, lambda url: say(f"Inspecting at {url}"))
