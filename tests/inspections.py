"""Inspections that tests make up."""

import time

from padim.images.regions import Region
from padim.store.inspection import (
    Arrival,
    Findings,
    Inspection,
    Milliseconds,
    Verdict,
    name_inspection,
    refuse,
)

NOON_S = 1_790_000_000.0


def make_arrival(recipe: str = "part", **more: object) -> Arrival:
    now_s = time.time()
    return Arrival(name_inspection(now_s), recipe, now_s, "camera", **more)  # type: ignore[arg-type]  # of a test


def end(arrival: Arrival, verdict: Verdict = Verdict.OK, finished_s: float = NOON_S) -> Inspection:
    if verdict is Verdict.NOT_INSPECTED:
        return refuse(arrival, "The picture is damaged.")
    is_nok = verdict is Verdict.NOK
    findings = Findings(
        model_sha256="a" * 64,
        score=5.0 if is_nok else 1.0,
        p_value=0.01 if is_nok else 0.5,
        threshold=3.0,
        threshold_kind="conformal",
        label="anomalous" if is_nok else "normal",
        regions=(Region(1, 2, 3, 4, 5, 2, 3, 5.0, 4.0),) if is_nok else (),
        level_scores=(1.0, 2.0),
        monitor="quiet",
    )
    return Inspection(
        arrival, verdict, finished_s, "", "b" * 64, 7, findings, Milliseconds(1.0, 2.0, 3.0)
    )


def make_inspection(verdict: Verdict = Verdict.OK, recipe: str = "part") -> Inspection:
    return end(make_arrival(recipe), verdict)
