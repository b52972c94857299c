"""Which inspections are looked for."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa

from padim.store.inspection import Verdict, make_storable
from padim.store.rows import has_tag
from padim.store.tables import inspections


@dataclass(frozen=True)
class Filter:
    """Which inspections are looked for; None and nothing leave all in.

    Attributes:
        recipe: Inspected by it.
        verdict: That ended so.
        serial: Of this part.
        tags: That have all of these keys.
        since_s: That came then or later, in seconds since 1970.
        until_s: That came before.
    """

    recipe: str | None = None
    verdict: Verdict | None = None
    serial: str | None = None
    tags: Mapping[str, str] = field(default_factory=dict)
    since_s: float | None = None
    until_s: float | None = None


def narrow(query: sa.Select[Any], wanted: Filter, dialect: str) -> sa.Select[Any]:
    """Ask for what a filter leaves in."""
    columns = inspections.c
    if wanted.recipe is not None:
        query = query.where(columns.recipe == make_storable(wanted.recipe))
    if wanted.verdict is not None:
        query = query.where(columns.verdict == wanted.verdict.value)
    if wanted.serial is not None:
        query = query.where(columns.serial == make_storable(wanted.serial))
    if wanted.since_s is not None:
        query = query.where(columns.time_s >= wanted.since_s)
    if wanted.until_s is not None:
        query = query.where(columns.time_s < wanted.until_s)
    for name, value in wanted.tags.items():
        query = query.where(has_tag(dialect, make_storable(name), make_storable(value)))
    return query
