"""An inspection as others read it: one record, in answers, messages, files and listings."""

import json
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime

from padim.images.regions import Region
from padim.store.inspection import Inspection


@dataclass(frozen=True)
class Record:
    """An inspection on one level.

    Attributes:
        id: Text that ascends with time.
        recipe: What it was inspected by.
        verdict: ``OK``, ``NOK`` or ``NOT INSPECTED``, which is to be treated as ``NOK``.
        reason: Why it was not inspected; empty otherwise.
        arrived: When it came, in UTC, as ISO 8601 has it.
        finished: When the verdict was known, likewise.
        source: Who brought it.
        serial: Of the part.
        tags: Other keys of the part.
        image_sha256: Of the picture's bytes.
        model_sha256: Of the model file.
        score: In standard deviations of normal patches; higher is more anomalous.
        p_value: Share of good images that score at least as high.
        threshold: Images that score higher are NOK.
        threshold_kind: How it was found: ``conformal``, ``spread``, ``tail`` or ``cost``.
        label: ``normal`` or ``anomalous``.
        regions: Where the map is above its threshold, in source pixels, the highest peak first.
        level_scores: What each level of the network adds, coarse to fine.
        queue_ms: Time that it waited.
        decode_ms: Time that decoding took.
        score_ms: Time that scoring took, of all that were scored together.
        monitor: What the drift alarm says.
    """

    id: str
    recipe: str
    verdict: str
    reason: str
    arrived: str
    finished: str
    source: str
    serial: str | None
    tags: dict[str, str]
    image_sha256: str | None
    model_sha256: str | None
    score: float | None
    p_value: float | None
    threshold: float | None
    threshold_kind: str | None
    label: str | None
    regions: tuple[Region, ...]
    level_scores: tuple[float, ...]
    queue_ms: float | None
    decode_ms: float | None
    score_ms: float | None
    monitor: str | None

    @classmethod
    def of(cls, inspection: Inspection) -> "Record":
        """What others read of an inspection."""
        arrival, findings, took = inspection.arrival, inspection.findings, inspection.took
        return cls(
            id=arrival.id,
            recipe=arrival.recipe,
            verdict=inspection.verdict.value,
            reason=inspection.reason,
            arrived=_format_time(arrival.time_s),
            finished=_format_time(inspection.finished_s),
            source=arrival.source,
            serial=arrival.serial,
            tags=arrival.tags,
            image_sha256=inspection.image_sha256,
            model_sha256=findings.model_sha256 if findings else None,
            score=findings.score if findings else None,
            p_value=findings.p_value if findings else None,
            threshold=findings.threshold if findings else None,
            threshold_kind=findings.threshold_kind if findings else None,
            label=findings.label if findings else None,
            regions=findings.regions if findings else (),
            level_scores=findings.level_scores if findings else (),
            queue_ms=took.queue,
            decode_ms=took.decode,
            score_ms=took.score,
            monitor=findings.monitor if findings else None,
        )

    @classmethod
    def names(cls) -> list[str]:
        """The columns of a table of records."""
        return [one.name for one in fields(cls)]

    def to_cells(self) -> list[object]:
        """As a row of a table: what is a list or an object is JSON in its cell."""
        return [
            json.dumps(value) if isinstance(value, list | dict | tuple) else value
            for value in self.to_dict().values()
        ]

    def to_dict(self) -> dict[str, object]:
        """As plain data, for JSON."""
        return asdict(self)


def _format_time(time_s: float) -> str:
    return datetime.fromtimestamp(time_s, UTC).isoformat(timespec="milliseconds")
