"""Seals of graphs made right again."""

from pathlib import Path


def seal_graph(path: Path) -> bool:
    """Renew the seal of a changed graph, if it has one and can still be read."""
    return False
