"""Rows of the database, and the inspections that they say."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import sqlalchemy as sa
from msgspec import convert
from sqlalchemy.engine import Connection, Row

from padim.images.regions import Region
from padim.store.inspection import (
    Arrival,
    Findings,
    Inspection,
    Milliseconds,
    Verdict,
    make_storable,
)
from padim.store.tables import inspections, regions

_MOST = 10_000  # parameters of one statement; PostgreSQL takes 65,535, SQLite 32,766
_LONGEST_KEY = 200  # characters; an index of PostgreSQL takes 2,704 bytes of source and key
_LONGEST_SERIAL = 500  # likewise

_NAMES = [column.name for column in inspections.c]
# Gives one row its verdict: ``row`` is the id, all else as ``write_row`` names it.
END = (
    sa.update(inspections)
    .where(inspections.c.id == sa.bindparam("row"))
    .values({name: sa.bindparam(name) for name in _NAMES[_NAMES.index("verdict") :]})
)


def split(ids: Sequence[str]) -> Iterator[Sequence[str]]:
    """Ids in parts that one statement takes."""
    for start in range(0, len(ids), _MOST):
        yield ids[start : start + _MOST]


def shorten_arrival(arrival: Arrival) -> Arrival:
    """An arrival whose key and serial every index takes, so that none is left without a verdict."""
    key, serial = arrival.key, arrival.serial
    if key is not None and len(key) > _LONGEST_KEY:
        key = hashlib.sha256(key.encode()).hexdigest()
    return replace(arrival, key=key, serial=serial and serial[:_LONGEST_SERIAL])


def has_tag(dialect: str, name: str, value: str) -> sa.ColumnElement[bool]:
    """Whether an inspection has a key of the part with this value."""
    tags = inspections.c.tags
    if dialect != "sqlite":
        is_same: sa.ColumnElement[bool] = tags[name].as_string() == value
        return is_same
    # A path of SQLite's JSON can name no key with a quote in it.
    each = sa.func.json_each(tags).table_valued("key", "value")
    return sa.exists().where(each.c.key == name, each.c.value == value)


def write_row(found: Inspection) -> dict[str, object]:
    """The columns that a verdict fills."""
    findings, took = found.findings, found.took
    return {
        "row": found.arrival.id,
        "verdict": found.verdict.value,
        "reason": make_storable(found.reason),
        "finished_s": found.finished_s,
        "image_sha256": found.image_sha256,
        "image_bytes": found.image_bytes,
        "queue_ms": took.queue,
        "decode_ms": took.decode,
        "score_ms": took.score,
        "model_sha256": findings and findings.model_sha256,
        "score": findings and findings.score,
        "p_value": findings and findings.p_value,
        "threshold": findings and findings.threshold,
        "threshold_kind": findings and findings.threshold_kind,
        "label": findings and findings.label,
        "level_scores": findings and list(findings.level_scores),
        "monitor": findings and findings.monitor,
    }


def read_arrival(row: Row[Any]) -> Arrival:
    """What came, as a row says."""
    return Arrival(row.id, row.recipe, row.time_s, row.source, row.key, row.serial, row.tags)


def read_rows(connection: Connection, rows: Sequence[Row[Any]]) -> list[Inspection]:
    """What rows that have a verdict say."""
    found: dict[str, list[Region]] = {row.id: [] for row in rows}
    for some in split(list(found)):
        query = sa.select(regions).where(regions.c.inspection.in_(some)).order_by(regions.c.place)
        for row in connection.execute(query):
            found[row.inspection].append(convert(row._mapping, Region, from_attributes=True))
    return [_read_row(row, tuple(found[row.id])) for row in rows]


def _read_row(row: Row[Any], found: tuple[Region, ...]) -> Inspection:
    findings = None
    if row.score is not None:
        findings = Findings(
            row.model_sha256,
            row.score,
            row.p_value,
            row.threshold,
            row.threshold_kind,
            row.label,
            found,
            tuple(row.level_scores),
            row.monitor,
        )
    return Inspection(
        read_arrival(row),
        Verdict(row.verdict),
        row.finished_s,
        row.reason,
        row.image_sha256,
        row.image_bytes,
        findings,
        Milliseconds(row.queue_ms, row.decode_ms, row.score_ms),
    )
