"""``/v1/line``: how the sources and sinks are."""

from dataclasses import dataclass

from fastapi import APIRouter, Depends, Response

from padim.line.supervisor import WorkerState
from padim.serving.access import Access
from padim.serving.answers import answer_json, describe_problems
from padim.serving.service import Service
from padim.serving.tokens import Role


@dataclass(frozen=True)
class LineAnswer:
    """The line of a station.

    Attributes:
        workers: Its sources and sinks.
        waiting: Records that a sink has not got yet, by its name.
        trouble: Why the database cannot be written now; empty when it can.
    """

    workers: list[WorkerState]
    waiting: dict[str, int]
    trouble: str


def make_line_routes(service: Service, access: Access) -> APIRouter:
    """The path of ``/v1/line``."""
    routes = APIRouter(prefix="/v1", tags=["line"])

    @routes.get(
        "/line",
        response_model=LineAnswer,
        responses=describe_problems(401, 403),
        dependencies=[Depends(access.require(Role.OPERATE))],
    )
    def get_line() -> Response:
        """How the sources and sinks are, and what waits."""
        states = service.supervisor.states
        sinks = [one.name for one in states if one.kind == "sink"]
        waiting = {name: service.store.count_outbox(name) for name in sinks}
        return answer_json(LineAnswer(states, waiting, service.writer.trouble))

    return routes
