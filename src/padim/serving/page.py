"""The first page, the page of the API, and what both are fed by; nothing comes from elsewhere."""

import asyncio
import json
from collections.abc import AsyncIterator
from importlib.resources import files

import fastapi_offline
from fastapi import APIRouter, Depends, HTTPException, Request, Response
from fastapi.responses import StreamingResponse
from jinja2 import Environment, PackageLoader, StrictUndefined

from padim.serving.access import COOKIE, Access
from padim.serving.answers import answer_json, describe_problems
from padim.serving.service import Service
from padim.serving.tokens import Role, find_token
from padim.store.record import Record

_SIGNED_IN = "padim_signed_in"  # a cookie that the page may see, and that says nothing else
_MOST_TOKEN_BYTES = 1000
_HEARTBEAT_S = 15.0  # so that connections that are gone are noticed
_KINDS = {".css": "text/css", ".js": "text/javascript"}
_OWN = ("page.css", "page.js", "docs.js")
_BROUGHT = ("swagger-ui.css", "swagger-ui-bundle.js")  # by fastapi-offline
_POLICY = (
    "default-src 'self'; img-src 'self' data: blob:; style-src 'self' 'unsafe-inline'; "
    "frame-ancestors 'none'; base-uri 'none'; form-action 'self'"
)
_HEADERS = {"Content-Security-Policy": _POLICY, "X-Content-Type-Options": "nosniff"}


def make_page_routes(service: Service, access: Access) -> APIRouter:
    """The paths that a person's browser asks for."""
    routes = APIRouter(include_in_schema=False)
    environment = Environment(
        loader=PackageLoader("padim.serving", "files"), autoescape=True, undefined=StrictUndefined
    )
    pages = {
        "/": environment.get_template("page.html.jinja").render(station=service.station.name),
        "/docs": environment.get_template("docs.html.jinja").render(),
    }
    own, brought = files("padim.serving") / "files", files(fastapi_offline) / "static"
    assets = {name: (own / name).read_bytes() for name in _OWN}
    assets |= {name: (brought / name).read_bytes() for name in _BROUGHT}

    @routes.get("/")
    @routes.get("/docs")
    async def show_page(request: Request) -> Response:
        return Response(pages[request.url.path], 200, _HEADERS, "text/html")

    @routes.get("/files/{name}")
    async def give_file(name: str) -> Response:
        if name not in assets:
            raise HTTPException(404, f"There is no file {name!r}.")
        kind = _KINDS[f".{name.rpartition('.')[2]}"]
        return Response(assets[name], 200, {**_HEADERS, "Cache-Control": "no-cache"}, kind)

    @routes.post("/login")
    async def sign_in(request: Request) -> Response:
        access.require_origin(request)
        text = b""
        async for part in request.stream():
            text += part
            if len(text) > _MOST_TOKEN_BYTES:
                raise HTTPException(413, "A token is shorter. Paste it alone.")
        token = find_token(access.tokens, text.decode("utf-8", "replace").strip())
        if token is None:
            raise HTTPException(403, "This is no token that is known here. Ask for a new one.")
        answer = answer_json({"name": token.name, "role": token.role})
        is_secure = request.url.scheme == "https"
        answer.set_cookie(
            COOKIE, text.decode().strip(), httponly=True, samesite="strict", secure=is_secure
        )
        answer.set_cookie(_SIGNED_IN, "1", samesite="strict", secure=is_secure)
        return answer

    @routes.post("/logout")
    async def sign_out(request: Request) -> Response:
        access.require_origin(request)
        answer = answer_json({})
        for name in (COOKIE, _SIGNED_IN):
            answer.delete_cookie(name, samesite="strict")
        return answer

    return routes


def make_event_routes(service: Service, access: Access) -> APIRouter:
    """``/v1/events``: inspections and alarms as they come."""
    routes = APIRouter(prefix="/v1", tags=["inspections"])

    @routes.get(
        "/events",
        response_class=StreamingResponse,
        responses=describe_problems(401, 403),
        dependencies=[Depends(access.require(Role.OPERATE))],
    )
    async def stream_events() -> Response:
        """The last 50 inspections, and each one that follows, as server-sent events."""
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        return StreamingResponse(_stream(service), 200, headers, "text/event-stream")

    return routes


async def _stream(service: Service) -> AsyncIterator[str]:
    queue = service.events.listen()
    try:
        while True:
            try:
                one = await asyncio.wait_for(queue.get(), _HEARTBEAT_S)
            except TimeoutError:
                yield ": here\n\n"
                continue
            if one is None:
                return
            if isinstance(one, Record):
                yield f"id: {one.id}\nevent: inspection\ndata: {json.dumps(one.to_dict())}\n\n"
            else:
                data = {"recipe": one.recipe, "sentence": one.sentence}
                yield f"event: alarm\ndata: {json.dumps(data)}\n\n"
    finally:
        service.events.leave(queue)
