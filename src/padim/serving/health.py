"""Whether the service lives, whether it is ready, and what Prometheus reads of it."""

from fastapi import APIRouter, Depends, Response
from prometheus_client import CONTENT_TYPE_LATEST

from padim.serving.access import Access
from padim.serving.answers import Problem, answer_problem, describe_problems
from padim.serving.service import LOST, Service
from padim.serving.tokens import Role


def make_health_routes(service: Service, access: Access) -> APIRouter:
    """The paths that other programs watch."""
    routes = APIRouter(tags=["health"])

    @routes.get("/livez", response_class=Response)
    async def is_alive() -> Response:
        """Answers while the service runs, however much it has to do."""
        return Response("ok\n", media_type="text/plain")

    @routes.get("/readyz", response_class=Response, responses=describe_problems(503))
    async def is_ready() -> Response:
        """Answers 200 when every open model has reproduced its samples and the database writes."""
        if trouble := find_trouble(service):
            return answer_problem(503, Problem(trouble))
        return Response("ok\n", media_type="text/plain")

    @routes.get(
        "/metrics",
        response_class=Response,
        responses=describe_problems(401, 403),
        dependencies=[Depends(access.require(Role.OPERATE))],
    )
    def write_metrics() -> Response:
        """What Prometheus reads."""
        return Response(service.metrics.write(), media_type=CONTENT_TYPE_LATEST)

    return routes


def find_trouble(service: Service) -> str:
    """Why a service is not ready; empty when it is."""
    # A shadow answers nothing, so it keeps no picture from here.
    recipes = service.recipes.items()
    troubles = [f"{name}: {one.file_trouble}" for name, one in recipes if one.file_trouble]
    if service.is_lost.is_set():
        troubles.append(LOST)
    if service.writer.trouble:
        troubles.append(service.writer.trouble)
    if not troubles and not service.is_ready.is_set():
        return "The service starts or stops. Ask again."
    return " ".join(troubles)
