"""``padim backbones``."""

from typing import Annotated

from padim.backbones import BACKBONES, DEFAULT_BACKBONE, BackboneSpec
from padim.cli.bars import progress
from padim.cli.console import result, table
from padim.cli.options import option
from padim.errors import UsageError
from padim.features.weights import locate

_MOST = 12  # networks of timm that are built to be described; large ones take seconds and gigabytes


def backbones(
    search: Annotated[
        str | None, option("Networks of timm whose names hold this, such as dinov2.", "TEXT")
    ] = None,
) -> None:
    """List the backbones, their licences and where weights are."""
    if search is not None:
        _search(search)
        return
    header = ("name", "taps", "channels", "dims", "licence", "size", "weights")
    specs = tuple(BACKBONES.values())
    rows = []
    for spec in specs:
        shown = spec.name + (" (default)" if spec.name == DEFAULT_BACKBONE else "")
        rows.append((shown, *_row(spec)))
    result([_facts(spec) for spec in specs], table(header, rows))


def _search(text: str) -> None:
    """List networks of timm, and say of those that cannot be used why."""
    from padim.features.intermediates import describe_network, find_names

    names = find_names(text) if text.strip() else []
    if not names:
        raise UsageError(f"timm has no pretrained network with {text!r} in its name. Try convnext.")
    document: list[dict[str, object]] = []
    rows, refused = [], []
    with progress("look at networks", len(names[:_MOST])) as advance:
        for name in names[:_MOST]:
            advance(1)
            try:
                spec = describe_network(name)
            except UsageError as error:
                document.append({"name": name, "cannot_be_used": str(error)})
                refused.append(str(error))
                continue
            document.append(_facts(spec))
            taps, channels, *others = _row(spec)
            rows.append((name, taps, channels, ",".join(map(str, spec.strides)), *others))
    header = ("name", "taps", "channels", "strides", "dims", "licence", "size", "weights")
    lines = [table(header, rows)] if rows else []
    lines += refused
    if rest := names[_MOST:]:
        document += [{"name": name} for name in rest]
        lines.append(
            f"And {len(rest)} more, which a longer text describes as well:\n{', '.join(rest)}"
        )
    result(document, "\n".join(lines))


def _facts(spec: BackboneSpec) -> dict[str, object]:
    path = locate(spec)
    return {
        "name": spec.name,
        "taps": spec.taps,
        "channels": spec.channels,
        "strides": spec.strides,
        "default_dims": spec.n_random_dims or spec.n_dims,
        "licence": spec.licence,
        "weights_bytes": spec.weights_bytes,
        "weights_path": str(path) if path else None,
        "source": spec.source,
    }


def _row(spec: BackboneSpec) -> tuple[str, ...]:
    dims = f"{spec.n_random_dims} of {spec.n_dims}" if spec.n_random_dims else f"{spec.n_dims}"
    return (
        ",".join(map(str, spec.taps)),
        ",".join(map(str, spec.channels)),
        dims,
        spec.licence,
        f"{spec.weights_bytes / 1e6:.0f} MB",
        "here" if locate(spec) else "to fetch",
    )
