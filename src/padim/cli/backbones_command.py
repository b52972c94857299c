"""``padim backbones``."""

from padim.backbones import BACKBONES, DEFAULT_BACKBONE
from padim.cli.console import result, table
from padim.features.weights import locate


def backbones() -> None:
    """List the backbones, their licences and where weights are."""
    document, rows = [], []
    for spec in BACKBONES.values():
        path = locate(spec)
        document.append(
            {
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
        )
        dims = f"{spec.n_random_dims} of {spec.n_dims}" if spec.n_random_dims else f"{spec.n_dims}"
        rows.append(
            (
                spec.name + (" (default)" if spec.name == DEFAULT_BACKBONE else ""),
                ",".join(map(str, spec.taps)),
                ",".join(map(str, spec.channels)),
                dims,
                spec.licence,
                f"{spec.weights_bytes / 1e6:.0f} MB",
                "here" if path else "to fetch",
            )
        )
    header = ("name", "taps", "channels", "dims", "licence", "size", "weights")
    result(document, table(header, rows))
