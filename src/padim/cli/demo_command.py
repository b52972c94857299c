"""``padim demo``."""

from pathlib import Path
from typing import Annotated

from padim.cli import options
from padim.cli.benchmark_command import finish, run_benchmark
from padim.cli.console import say
from padim.cli.images import require_writable
from padim.cli.options import option
from padim.datasets import read_category
from padim.datasets.solar_cells import LICENCE, lay_out_solar_cells
from padim.fitting.settings import FitSettings
from padim.recipes import DEFAULT_RECIPE


def demo(
    out: Annotated[Path, option("Folder for data and results.", "DIR", "-o", "--out")] = Path(
        "demo"
    ),
    cells: Annotated[str, option("Which solar cells.", "mono|poly")] = "mono",
    recipe: options.Recipe = DEFAULT_RECIPE,
) -> None:
    """Find defects in photographs of solar cells, from nothing."""
    require_writable(out)
    category = read_category(lay_out_solar_cells(out / "data", cells))
    results = out / "results"
    from padim.evaluation.job import Plan

    plan = Plan(FitSettings(recipe=recipe))
    outcome = run_benchmark((category,), results, plan, overwrite=True)
    finish(outcome, results)
    say(
        f"{LICENCE}\nTry it on an image: padim predict "
        f"{results / 'models' / category.name}.safetensors {category.root / 'test' / 'anomalous'} "
        f"-o {out / 'predictions'}"
    )
