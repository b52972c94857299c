"""Rows of the database, and the inspections that they say."""

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from msgspec import convert
from sqlalchemy.engine import Connection, Row

from padim.images.regions import Region
from padim.store.inspection import Arrival, Findings, Inspection, Milliseconds, Verdict
from padim.store.tables import inspections, regions

_NAMES = [column.name for column in inspections.c]
# Gives one row its verdict: ``row`` is the id, all else as ``write_row`` names it.
END = (
    sa.update(inspections)
    .where(inspections.c.id == sa.bindparam("row"))
    .values({name: sa.bindparam(name) for name in _NAMES[_NAMES.index("verdict") :]})
)


def write_row(found: Inspection) -> dict[str, object]:
    """The columns that a verdict fills."""
    findings, took = found.findings, found.took
    return {
        "row": found.arrival.id,
        "verdict": found.verdict.value,
        "reason": found.reason,
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
    query = sa.select(regions).where(regions.c.inspection.in_(found)).order_by(regions.c.place)
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
