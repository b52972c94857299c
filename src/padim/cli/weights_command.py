"""``padim weights list|fetch|verify``."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from padim.backbones import BACKBONES
from padim.cli import options
from padim.cli.console import result, table
from padim.cli.help import Command, Group
from padim.cli.images import require_writable
from padim.cli.options import option
from padim.errors import WeightsError

app = typer.Typer(
    cls=Group,
    help="List, fetch and verify pretrained weights.",
    rich_markup_mode=None,
    add_completion=False,
)
Names = Annotated[
    list[str] | None,
    typer.Argument(help="Backbones, or timm:NAME; all of the table when none is named."),
]


@app.command("list", cls=Command)
@options.with_shared_options
def list_weights() -> None:
    """Say which weights are here and where the others come from."""
    from padim.features.weights import locate, weights_folder

    document, rows = [], []
    for spec in BACKBONES.values():
        path = locate(spec)
        document.append(
            {
                "name": spec.name,
                "file": spec.weights_file,
                "path": str(path) if path else None,
                "source": spec.package or spec.url,
                "weights_bytes": spec.weights_bytes,
                "licence": spec.licence,
            }
        )
        source = f"to fetch: {spec.package.replace('_', '-') or spec.url}"
        rows.append((spec.name, spec.weights_file, str(path or source)))
    text = table(("name", "file", "where"), rows)
    result(document, f"{text}\nFiles brought by hand belong into {weights_folder()}.")


@app.command("fetch", cls=Command)
@options.with_shared_options
def fetch_weights(
    names: Names = None,
    to: Annotated[
        Path | None, option("Folder to carry to a machine without network.", "DIR")
    ] = None,
) -> None:
    """Bring weights here, or into a folder to carry elsewhere."""
    from padim.features.intermediates import find_backbone
    from padim.features.weights import fetch

    specs = [find_backbone(name) for name in names or BACKBONES]
    if to is not None:
        require_writable(to)
    paths = {spec.name: str(fetch(spec, to)) for spec in specs}
    result(paths, "\n".join(f"{name}: {path}" for name, path in paths.items()))


@app.command("verify", cls=Command)
@options.with_shared_options
def verify_weights(
    names: Names = None,
    weights: options.Weights = None,
) -> None:
    """Check that weights are the right ones, by names, shapes, sha256."""
    from padim.features.intermediates import find_backbone
    from padim.features.weights import locate, verify

    specs = [find_backbone(name) for name in names or BACKBONES]
    if weights is not None and len(specs) != 1:
        raise WeightsError("--weights names one file, but needs one backbone to hold it against.")
    document = []
    for spec in specs:
        path = weights or locate(spec)
        if path is None and names:
            raise WeightsError(
                f"The weights of {spec.name} are not here. Bring them with: "
                f"padim weights fetch {spec.name}"
            )
        if path is not None:
            document.append({"name": spec.name, **asdict(verify(spec, path)), "path": str(path)})
    text = "\n".join(
        f"{row['name']}: right, {row['n_tensors']} tensors, sha256 {row['sha256']} checked against "
        f"{row['matched']}"
        for row in document
    )
    result(document, text or "No weights are here.")
