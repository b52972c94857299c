"""``padim compare``."""

from pathlib import Path
from typing import Annotated

import typer

from padim.cli.console import result, table
from padim.errors import listed


def compare(
    first: Annotated[Path, typer.Argument(help="Folder of a benchmark.")],
    second: Annotated[Path, typer.Argument(help="Another, of the same test images.")],
) -> None:
    """Say by how much one benchmark is better, and if that holds."""
    from padim.evaluation.category import metric_words, shown
    from padim.evaluation.compare import compare as compare_runs

    document = compare_runs(first, second)
    rows = []
    for name, metrics in (*document["categories"].items(), ("all", document["all"])):
        for metric, found in metrics.items():
            low, high = found["interval"]
            rows.append(
                (
                    name,
                    metric_words(metric),
                    shown(found["first"]),
                    shown(found["second"]),
                    f"{found['difference']:+.3f} [{low:+.3f}, {high:+.3f}]",
                    "yes" if found["holds"] else "no",
                )
            )
    headers = ("category", "metric", "first", "second", "difference", "holds")
    runs = (
        f"{which}: {document[which]}, {settings['backbone']}, {settings['recipe']}"
        + (f", mean of {settings['n_seeds']} seeds" if settings["n_seeds"] > 1 else "")
        for which, settings in document["settings"].items()
    )
    lines = "\n".join(runs)
    text = (
        f"{lines}\n{table(headers, rows)}\n"
        "In brackets: 95% of bootstrap samples of the test images, the "
        "same for both. A difference holds when they leave 0 out."
    )
    if document["in_one"]:
        text += f"\nLeft out, since only one has them: {listed(document['in_one'])}."
    if not document["same_pixels"]:
        text += (
            "\nMetrics of pixels are left out: the two look at other pixels (size or crop), so "
            "theirs cannot be compared."
        )
    result(document, text)
