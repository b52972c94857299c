"""``/v2``: the Open Inference Protocol, which clients of Triton and KServe speak."""

import asyncio
import time
from collections.abc import Sequence

import numpy as np
from fastapi import APIRouter, Depends, HTTPException, Request, Response
from numpy.typing import NDArray

import padim
from padim.errors import UsageError
from padim.memory import format_bytes
from padim.scoring.prediction import Prediction
from padim.serving.access import Access
from padim.serving.admission import NOT_WRITTEN, require_admission, wait_for_answers
from padim.serving.answers import Problem, answer_json, answer_problem, describe_problems
from padim.serving.bodies import read_body
from padim.serving.health import find_trouble
from padim.serving.inspections import SOURCE
from padim.serving.job import Answer
from padim.serving.lane import MOST_TOGETHER
from padim.serving.service import Service
from padim.serving.tensors import INPUT, InferRequest, parse_request, write_answer
from padim.serving.tokens import Role
from padim.store.inspection import Arrival, Verdict, name_inspection

_JSON_LENGTH = "Inference-Header-Content-Length"
_OUTPUTS = ("anomaly_map", "image_score", "level_scores")
_LONGEST = 200  # characters of an id or a serial
_LONGEST_S = 3600.0
_BODY = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": {
                    "type": "object",
                    "required": ["inputs"],
                    "properties": {
                        "id": {"type": "string"},
                        "parameters": {"type": "object"},
                        "inputs": {"type": "array", "items": {"type": "object"}},
                        "outputs": {"type": "array", "items": {"type": "object"}},
                    },
                }
            },
            "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
        },
    }
}


def make_open_inference_routes(service: Service, access: Access) -> APIRouter:
    """The paths of ``/v2``."""
    routes = APIRouter(prefix="/v2", tags=["open inference"])
    send = Depends(access.require(Role.SCORE))

    @routes.get("/health/live", response_class=Response)
    async def is_live() -> Response:
        """Answers while the service runs."""
        return answer_json({"live": True})

    @routes.get("/health/ready", response_class=Response, responses=describe_problems(503))
    async def is_ready() -> Response:
        """Answers 200 when every model that is open has reproduced its samples on this machine."""
        trouble = find_trouble(service)
        return answer_problem(503, Problem(trouble)) if trouble else answer_json({"ready": True})

    @routes.get(
        "",
        response_class=Response,
        responses=describe_problems(401, 403),
        dependencies=[send],
    )
    async def describe_server() -> Response:
        """What this server is."""
        extensions = ["binary_tensor_data"]
        said = {"name": "padim", "version": padim.__version__, "extensions": extensions}
        return answer_json(said)

    @routes.get(
        "/models/{model}",
        response_class=Response,
        responses=describe_problems(401, 403, 404, 422),
        dependencies=[send],
    )
    def describe_model(model: str) -> Response:
        """What a recipe takes and gives."""
        return answer_json(_describe_model(service, model))

    @routes.get(
        "/models/{model}/ready",
        response_class=Response,
        responses=describe_problems(401, 403, 404, 503),
        dependencies=[send],
    )
    async def is_model_ready(model: str) -> Response:
        """Answers 200 when a recipe takes pictures."""
        recipe = service.recipes[model]
        if not service.is_ready.is_set() or (recipe.current is None and recipe.trouble):
            trouble = recipe.trouble or "The service starts or stops. Ask again."
            return answer_problem(503, Problem(trouble))
        return answer_json({"name": model, "ready": True})

    @routes.post(
        "/models/{model}/infer",
        response_class=Response,
        responses=describe_problems(400, 401, 403, 404, 408, 413, 415, 422, 503),
        dependencies=[send],
        openapi_extra=_BODY,
    )
    async def infer(request: Request, model: str) -> Response:
        """Inspect the pictures of a tensor; each is an inspection of its own.

        Their ids and verdicts are parameters of the answer.
        """
        return await _infer(service, request, model)

    return routes


def _describe_model(service: Service, name: str) -> dict[str, object]:
    predictor = service.recipes.use(name).predictor
    shapes = (predictor.preprocess.size_px, (), (predictor.description.n_level_scores,))
    return {
        "name": name,
        "platform": f"padim_{predictor.engine}",
        "inputs": [{"name": INPUT, "datatype": "BYTES", "shape": [-1]}],
        "outputs": [
            {"name": output, "datatype": "FP32", "shape": [-1, *shape]}
            for output, shape in zip(_OUTPUTS, shapes, strict=True)
        ],
    }


async def _infer(service: Service, request: Request, model: str) -> Response:
    began_s = time.monotonic()
    limits = service.station.limits
    await require_admission(service, model, None)
    source = service.station.name_source(SOURCE)
    most_bytes = min(limits.waiting_bytes, MOST_TOGETHER * limits.picture_bytes)
    async with read_body(request, most_bytes, service.room) as body:
        wanted, pictures = await asyncio.to_thread(parse_request, body, _json_length(request))
        binary = wanted.choose_outputs(_OUTPUTS)
        _check_pictures(pictures, limits.picture_bytes)
        serial, tags, deadline_s = _read_parameters(wanted)
        ends_s = began_s + service.inspector.choose_deadline_s(model, deadline_s)
        await require_admission(service, model, ends_s - time.monotonic(), len(pictures))
        pending = []
        for place, picture in enumerate(pictures):
            now_s = time.time()
            numbered = {**tags, "image": str(place)} if len(pictures) > 1 else tags
            arrival = Arrival(name_inspection(now_s), model, now_s, source, None, serial, numbered)
            pending.append(service.inspector.inspect(arrival, picture, ends_s - time.monotonic()))
        answers = await wait_for_answers(pending, ends_s)
        if answers is None:
            return answer_problem(503, Problem(NOT_WRITTEN), {"Retry-After": "5"})
    return await asyncio.to_thread(_answer, model, wanted.id, answers, binary)


def _json_length(request: Request) -> int | None:
    text = request.headers.get(_JSON_LENGTH)
    if text is None:
        return None
    if not (text.isascii() and text.isdecimal() and len(text) < 20):
        raise HTTPException(400, f"{_JSON_LENGTH} is {text[:50]!r}, but needs to be a number.")
    return int(text)


def _check_pictures(pictures: Sequence[bytes], most_bytes: int) -> None:
    if not 0 < len(pictures) <= MOST_TOGETHER:
        raise HTTPException(
            400,
            f"The request has {len(pictures)} pictures, but needs 1 to {MOST_TOGETHER}. Send them "
            "in several.",
        )
    if max(map(len, pictures)) > most_bytes:
        raise HTTPException(
            413,
            f"A picture is larger than {format_bytes(most_bytes)}, the most that is taken. Send a "
            "smaller one.",
        )


def _read_parameters(wanted: InferRequest) -> tuple[str | None, dict[str, str], float | None]:
    """The serial of the part, its other keys, and the deadline in seconds."""
    serial, timeout_us = wanted.parameters.get("serial"), wanted.parameters.get("timeout")
    if serial is not None and (not isinstance(serial, str) or len(serial) > _LONGEST):
        raise UsageError(f"The serial needs to be text of {_LONGEST} characters at most.")
    if len(wanted.id) > _LONGEST:
        raise UsageError(f"The id has {len(wanted.id)} characters, but may have {_LONGEST}.")
    tags = {"request": wanted.id} if wanted.id else {}
    if not timeout_us:  # clients send 0 for none
        return serial, tags, None
    if isinstance(timeout_us, str) or not 0 < timeout_us <= 1e6 * _LONGEST_S:
        raise UsageError(
            f"The timeout is {timeout_us!r}, but needs to be microseconds, of an hour at most."
        )
    return serial, tags, timeout_us / 1e6


def _answer(
    model: str, request_id: str, answers: Sequence[Answer], binary: dict[str, bool]
) -> Response:
    predictions = []
    for place, answer in enumerate(answers, 1):
        inspection, prediction = answer.inspection, answer.prediction
        if inspection.verdict is Verdict.NOT_INSPECTED or prediction is None:
            which = f"Image {place} of {len(answers)}: " if len(answers) > 1 else ""
            id, verdict = inspection.arrival.id, inspection.verdict.value
            problem = Problem(f"{which}{inspection.reason}", id, verdict)
            return answer_problem(503 if answer.is_late else 422, problem)
        predictions.append(prediction)
    if len({(one.anomaly_map.shape, len(one.level_scores)) for one in predictions}) > 1:
        problem = Problem("The model has been changed meanwhile. Send the request again.")
        return answer_problem(503, problem, {"Retry-After": "1"})
    said: dict[str, object] = {
        "model_name": model,
        "parameters": {
            "inspections": ",".join(one.inspection.arrival.id for one in answers),
            "verdicts": ",".join(one.inspection.verdict.value for one in answers),
        },
    }
    if request_id:
        said["id"] = request_id
    content, n_json = write_answer(said, _collect_outputs(predictions), binary)
    if n_json is None:
        return Response(content, media_type="application/json")
    headers = {_JSON_LENGTH: str(n_json)}
    return Response(content, 200, headers, media_type="application/octet-stream")


def _collect_outputs(predictions: Sequence[Prediction]) -> dict[str, NDArray[np.float32]]:
    tensors = (
        np.stack([one.anomaly_map for one in predictions]),
        np.array([one.score for one in predictions], np.float32),
        np.array([one.level_scores for one in predictions], np.float32),
    )
    return dict(zip(_OUTPUTS, tensors, strict=True))
