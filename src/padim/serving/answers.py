"""What the service answers, and how a problem is told: one sentence, whatever went wrong."""

import logging
from dataclasses import asdict, dataclass

import msgspec
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from padim.errors import PadimError, UnknownNameError, UsageError
from padim.serving.inspector import BusyError, StoppingError
from padim.serving.recipes import NoPreviousError
from padim.store.database import StoreError, UnavailableError
from padim.store.record import Record

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Problem:
    """What went wrong.

    Attributes:
        error: A sentence: what has this, but needs that, and what to do.
        id: Of the inspection that was written down; None when none was.
        verdict: ``NOT INSPECTED`` when one was.
    """

    error: str
    id: str | None = None
    verdict: str | None = None


@dataclass(frozen=True, kw_only=True)
class Answered(Record):
    """A record, and what was asked for beside it, left out when the deadline comes first.

    Attributes:
        map: The anomaly map at source size, in base64: ``npy`` in float32, or ``png`` of 16 bits
            in steps of a 256th of a standard deviation.
        overlay: The picture with its map over it, a JPEG in base64.
    """

    map: str | None = None
    overlay: str | None = None


PROBLEMS = {
    400: "The request is not understood.",
    401: "A token is needed.",
    403: "The token does not allow this.",
    404: "There is no such thing.",
    409: "It cannot be done as things are.",
    408: "The picture did not come in time.",
    413: "The picture is too large.",
    415: "The body is of another kind than a picture.",
    422: "The picture cannot be inspected.",
    503: "Not now: the picture was not admitted, or not answered by its deadline.",
}


# What the framework says of a path.
_ROUTING = {
    "Not Found": "There is no such path. /docs lists all.",
    "Method Not Allowed": "The path takes no such method. /docs lists all.",
}


def describe_problems(*statuses: int) -> dict[int | str, dict[str, object]]:
    """What the schema says of statuses."""
    return {one: {"model": Problem, "description": PROBLEMS[one]} for one in statuses}


def answer_json(value: object, status: int = 200) -> Response:
    """Answer with a dataclass, or a list of some, as JSON."""
    return Response(msgspec.json.encode(value), status, media_type="application/json")


def answer_problem(
    status: int, problem: Problem, headers: dict[str, str] | None = None
) -> Response:
    """Answer with a problem."""
    said = {name: one for name, one in asdict(problem).items() if one is not None}
    content = msgspec.json.encode(said)
    return Response(content, status, headers, media_type="application/json")


def tell_problems(app: FastAPI) -> None:
    """Let whatever is raised in an application be answered with a sentence."""

    @app.exception_handler(RequestValidationError)
    async def tell_invalid(_request: Request, error: RequestValidationError) -> Response:
        found = error.errors()[0]
        place = ".".join(str(one) for one in found["loc"][1:]) or "body"
        return answer_problem(400, Problem(f"{place} cannot be used: {found['msg']}."))

    @app.exception_handler(HTTPException)
    async def tell_refusal(_request: Request, error: HTTPException) -> Response:
        headers = dict(error.headers or {})
        said = _ROUTING.get(error.detail, error.detail)
        return answer_problem(error.status_code, Problem(said), headers)

    @app.exception_handler(PadimError)
    async def tell_failure(_request: Request, error: PadimError) -> Response:
        if isinstance(error, BusyError):
            seconds = str(max(1, round(error.retry_after_s)))
            return answer_problem(503, Problem(str(error)), {"Retry-After": seconds})
        if isinstance(error, StoppingError | StoreError):
            return answer_problem(503, Problem(str(error)), {"Retry-After": "5"})
        if isinstance(error, NoPreviousError):
            return answer_problem(409, Problem(str(error)))
        if isinstance(error, UnknownNameError):
            return answer_problem(404, Problem(str(error)))
        status = 400 if isinstance(error, UsageError) else 422
        return answer_problem(status, Problem(str(error)))

    @app.exception_handler(UnavailableError)
    async def tell_database(_request: Request, error: UnavailableError) -> Response:
        _log.error("%s", error)
        problem = Problem("The database does not answer. Ask again.")
        return answer_problem(503, problem, {"Retry-After": "5"})

    @app.exception_handler(Exception)
    async def tell_mistake(_request: Request, error: Exception) -> Response:
        # Whoever serves logs it with its trace.
        name = type(error).__name__
        return answer_problem(
            500, Problem(f"The service has made a mistake ({name}); see its log.")
        )
