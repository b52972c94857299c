"""``/v1``: pictures in, verdicts out, and what was inspected before."""

import asyncio
import base64
import io
import time
from collections.abc import Set
from contextlib import suppress
from datetime import datetime
from typing import Annotated, Literal

import numpy as np
from fastapi import APIRouter, Depends, HTTPException, Query, Request, Response
from numpy.typing import NDArray
from PIL import Image

from padim.scoring.prediction import Prediction
from padim.serving.access import Access
from padim.serving.admission import (
    NOT_WRITTEN,
    require_admission,
    wait_for_answers,
)
from padim.serving.answers import (
    Answered,
    Problem,
    answer_json,
    answer_problem,
    describe_problems,
)
from padim.serving.bodies import read_body
from padim.serving.job import Answer
from padim.serving.service import Service
from padim.serving.tokens import Role
from padim.store.filter import Filter
from padim.store.inspection import Arrival, Inspection, Verdict, name_inspection
from padim.store.record import Record

SOURCE = "http"
_TAG = "x-tag-"  # header of another key of the part
_MAP_STEPS = 256  # of a PNG, in a standard deviation
_OWN = {"serial", "map", "overlay", "deadline_ms"}  # in a query; all else are keys of the part
_SOUGHT = {"recipe", "verdict", "serial", "since", "until", "before", "limit"}  # likewise
_LONGEST = 200  # characters of a key or its value

Serial = Annotated[
    str | None, Query(max_length=_LONGEST, description="Of the part; kept and searchable.")
]
Moment = Annotated[datetime | None, Query(description="In ISO 8601, such as 2026-11-27T14:00Z.")]
MapFormat = Annotated[
    Literal["png", "npy"] | None, Query(description="To give the map as well, if there is time.")
]
OverlayFormat = Annotated[
    Literal["jpeg"] | None, Query(description="To draw the map over the picture, if there is time.")
]
DeadlineMs = Annotated[
    float | None,
    Query(gt=0, le=3.6e6, description="From arrival to answer; the recipe's if not given."),
]


def make_inspection_routes(service: Service, access: Access) -> APIRouter:
    """The paths of ``/v1`` that pictures come in by."""
    routes = APIRouter(prefix="/v1", tags=["inspections"])
    limits = service.station.limits
    source = service.station.name_source(SOURCE)
    send, see = (Depends(access.require(role)) for role in (Role.SCORE, Role.OPERATE))

    @routes.post(
        "/recipes/{recipe}/inspections",
        response_model=Answered,
        responses=describe_problems(400, 401, 403, 404, 408, 413, 415, 422, 503),
        dependencies=[send],
        openapi_extra={
            "requestBody": {
                "required": True,
                "content": {
                    kind: {"schema": {"type": "string", "format": "binary"}}
                    for kind in ("image/*", "application/octet-stream")
                },
            }
        },
    )
    async def inspect(
        request: Request,
        recipe: str,
        serial: Serial = None,
        map: MapFormat = None,
        overlay: OverlayFormat = None,
        deadline_ms: DeadlineMs = None,
    ) -> Response:
        """Inspect a picture: the body is the bytes of an image file.

        Other keys of the part come in the query, or in headers that begin with ``X-Tag-``.
        """
        began_s = time.monotonic()
        _require_picture(request)
        deadline_s = None if deadline_ms is None else deadline_ms / 1e3
        await require_admission(service, recipe, deadline_s)
        ends_s = began_s + service.inspector.choose_deadline_s(recipe, deadline_s)
        async with read_body(request, limits.picture_bytes, service.room) as picture:
            now_s = time.time()
            arrival = Arrival(
                name_inspection(now_s), recipe, now_s, source, None, serial, _collect_tags(request)
            )
            await require_admission(service, recipe, ends_s - time.monotonic())
            pending = service.inspector.inspect(arrival, picture, ends_s - time.monotonic())
            answers = await wait_for_answers([pending], ends_s)
            if answers is None:
                return answer_problem(
                    503,
                    Problem(NOT_WRITTEN, arrival.id),
                    {"Retry-After": "5"},
                )
            return await _answer(answers[0], map, overlay, ends_s)

    @routes.get(
        "/inspections/{id}",
        response_model=Record,
        responses=describe_problems(401, 403, 404),
        dependencies=[see],
    )
    def get(id: str) -> Response:
        """What was said of a picture."""
        found = service.store.get(id)
        if found is None:
            raise HTTPException(404, f"There is no inspection {id!r}.")
        if isinstance(found, Arrival):
            raise HTTPException(404, f"The inspection {id!r} has no verdict yet. Ask again.")
        return answer_json(Record.of(found))

    @routes.get(
        "/inspections",
        response_model=list[Record],
        responses=describe_problems(400, 401, 403),
        dependencies=[see],
    )
    def find(
        request: Request,
        recipe: str | None = None,
        verdict: Verdict | None = None,
        serial: Serial = None,
        since: Moment = None,
        until: Moment = None,
        before: Annotated[str | None, Query(description="An id: only what came before.")] = None,
        limit: Annotated[int, Query(ge=1, le=1000)] = 50,
    ) -> Response:
        """Inspections, the newest first. All else in the query are keys of the part."""
        wanted = Filter(
            recipe,
            verdict,
            serial,
            _collect_tags(request, _SOUGHT),
            _read_moment(since),
            _read_moment(until),
        )
        return answer_json([Record.of(one) for one in service.store.find(wanted, limit, before)])

    @routes.get(
        "/inspections/{id}/picture",
        response_class=Response,
        responses=describe_problems(401, 403, 404),
        dependencies=[Depends(access.require(Role.QUALITY))],
    )
    def get_picture(id: str) -> Response:
        """The picture of an inspection, as it came, if it was kept."""
        found = service.store.get(id)
        sha256 = found.image_sha256 if isinstance(found, Inspection) else None
        picture = service.pictures.read(sha256) if sha256 else None
        if picture is None:
            raise HTTPException(404, f"No picture of an inspection {id!r} is kept.")
        # What a browser would run, sent as a picture, is not run.
        headers = {"Content-Security-Policy": "sandbox", "X-Content-Type-Options": "nosniff"}
        return Response(picture, 200, headers, _guess_kind(picture))

    return routes


def _read_moment(moment: datetime | None) -> float | None:
    """Seconds since 1970."""
    try:
        return moment.timestamp() if moment else None
    except (ValueError, OverflowError, OSError):  # of this machine's zone, at the ends of time
        raise HTTPException(
            400, f"{moment} is no time that is understood. Name one of this century."
        ) from None


def _guess_kind(picture: bytes) -> str:
    """The kind of an image file, of those that browsers show."""
    kinds = {b"\x89PNG": "image/png", b"\xff\xd8\xff": "image/jpeg", b"RIFF": "image/webp"}
    found = (kind for start, kind in kinds.items() if picture.startswith(start))
    return next(found, "application/octet-stream")


def _require_picture(request: Request) -> None:
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind and not kind.startswith("image/") and kind != "application/octet-stream":
        raise HTTPException(
            415,
            f"The body is {kind[:50]}, but needs to be the bytes of an image file. Send it with "
            "curl --data-binary @part.png -H 'Content-Type: image/png'.",
        )


def _collect_tags(request: Request, own: Set[str] = _OWN) -> dict[str, str]:
    """Other keys of the part, from the query, in which some names are our own, and from headers."""
    tags = {name: value for name, value in request.query_params.items() if name not in own} | {
        name.removeprefix(_TAG): value
        for name, value in request.headers.items()
        if name.startswith(_TAG)
    }
    if len(tags) > 32 or any(len(one) > _LONGEST for pair in tags.items() for one in pair):
        raise HTTPException(
            400, f"The part has more than 32 keys, or one of more than {_LONGEST} characters."
        )
    return tags


async def _answer(
    answer: Answer, map_format: str | None, overlay_format: str | None, ends_s: float
) -> Response:
    """Answer with a verdict, and with what there was time to draw of it."""
    inspection, prediction = answer.inspection, answer.prediction
    if inspection.verdict is Verdict.NOT_INSPECTED:
        problem = Problem(inspection.reason, inspection.arrival.id, inspection.verdict.value)
        return answer_problem(503 if answer.is_late else 422, problem)
    record = Record.of(inspection)
    if prediction is None or not (map_format or overlay_format):
        return answer_json(record)
    drawing = asyncio.to_thread(_draw, record, prediction, map_format, overlay_format)
    with suppress(TimeoutError):
        record = await asyncio.wait_for(drawing, ends_s - time.monotonic())
    return answer_json(record)


def _draw(
    record: Record, prediction: Prediction, map_format: str | None, overlay_format: str | None
) -> Answered:
    """Add a map and a picture with it."""
    anomaly_map = None if map_format is None else encode_map(prediction.source_map(), map_format)
    drawn = None
    if overlay_format is not None:
        buffer = io.BytesIO()
        prediction.draw().save(buffer, "JPEG", quality=90)
        drawn = buffer.getvalue()
    return Answered(**vars(record), map=_encode(anomaly_map), overlay=_encode(drawn))


def encode_map(anomaly_map: NDArray[np.float32], map_format: str) -> bytes:
    """An anomaly map as a file: ``npy``, or ``png`` of 16 bits, which has 0 where there is none."""
    buffer = io.BytesIO()
    if map_format == "npy":
        np.save(buffer, anomaly_map)
    else:
        steps = np.nan_to_num(anomaly_map * _MAP_STEPS).round().clip(0, 65535)
        Image.fromarray(steps.astype(np.uint16)).save(buffer, "PNG")
    return buffer.getvalue()


def _encode(content: bytes | None) -> str | None:
    return None if content is None else base64.b64encode(content).decode("ascii")
