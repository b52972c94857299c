"""Seals of graphs made right again."""

from pathlib import Path

from padim.errors import ModelFileError
from padim.scoring.graph_file import write_seal


def seal_graph(path: Path) -> bool:
    """Renew the seal of a changed graph; false where it can no longer be written."""
    try:
        write_seal(path)
    except (ModelFileError, ValueError):
        return False
    return True
