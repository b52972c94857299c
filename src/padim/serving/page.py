"""The first page, the page of the API, and what both are fed by; nothing comes from elsewhere."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from importlib.resources import files
from typing import Annotated

import fastapi_offline
from fastapi import APIRouter, Depends, Header, HTTPException, Request, Response
from fastapi.responses import StreamingResponse
from jinja2 import Environment, PackageLoader, StrictUndefined

from padim.serving.access import COOKIE, Access
from padim.serving.answers import answer_json, describe_problems
from padim.serving.service import Service
from padim.serving.tokens import Role, Token, find_token
from padim.store.record import Record

_SIGNED_IN = "padim_signed_in"  # a cookie that the page may see, and that says nothing else
_MOST_TOKEN_BYTES = 1000
_HEARTBEAT_S = 15.0  # so that connections that are gone are noticed
_KINDS = {".css": "text/css", ".js": "text/javascript"}
_OWN = ("page.css", "page.js", "docs.js")
_BROUGHT = ("swagger-ui.css", "swagger-ui-bundle.js")  # by fastapi-offline
_POLICY = (
    "default-src 'self'; img-src 'self' data: blob:; object-src 'none'; "
    "frame-ancestors 'none'; base-uri 'none'; form-action 'self'"
)
_HEADERS = {
    "Content-Security-Policy": _POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}
# Swagger's page writes styles into its elements, which ours does not.
_DOCS_POLICY = f"{_POLICY}; style-src 'self' 'unsafe-inline'"


def make_page_routes(service: Service, access: Access) -> APIRouter:
    """The paths that a person's browser asks for."""
    routes = APIRouter(include_in_schema=False)
    environment = Environment(
        loader=PackageLoader("padim.serving", "files"), autoescape=True, undefined=StrictUndefined
    )
    page = environment.get_template("page.html.jinja").render(station=service.station.name)
    docs = environment.get_template("docs.html.jinja").render()
    own, brought = files("padim.serving") / "files", files(fastapi_offline) / "static"
    assets = {name: (own / name).read_bytes() for name in _OWN}
    assets |= {name: (brought / name).read_bytes() for name in _BROUGHT}

    @routes.get("/")
    async def show_page() -> Response:
        return Response(page, 200, _HEADERS, "text/html")

    @routes.get("/docs")
    async def show_docs() -> Response:
        headers = {**_HEADERS, "Content-Security-Policy": _DOCS_POLICY}
        return Response(docs, 200, headers, "text/html")

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
        responses=describe_problems(400, 401, 403),
    )
    async def stream_events(
        token: Annotated[Token | None, Depends(access.require(Role.OPERATE))],
        last_event_id: Annotated[
            str, Header(description="The inspection that was heard last.", max_length=100)
        ] = "",
    ) -> Response:
        """The last 50 inspections, and each one that follows, as server-sent events.

        One who comes again is told of what has followed the last that was heard.
        """
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        events = _stream(service, lambda: _is_allowed(token, access.tokens), last_event_id)
        return StreamingResponse(events, 200, headers, "text/event-stream")

    return routes


def _is_allowed(token: Token | None, tokens: tuple[Token, ...]) -> bool:
    """Whether one who has begun to listen still may: tokens are removed, and first ones added."""
    return token in tokens if tokens else token is None


async def _stream(
    service: Service, is_allowed: Callable[[], bool], last_event_id: str
) -> AsyncIterator[str]:
    queue = service.events.listen(last_event_id)
    try:
        while True:
            try:
                one = await asyncio.wait_for(queue.get(), _HEARTBEAT_S)
            except TimeoutError:
                if not is_allowed():
                    return
                yield ": here\n\n"
                continue
            if one is None or not is_allowed():
                return
            if isinstance(one, Record):
                yield f"id: {one.id}\nevent: inspection\ndata: {json.dumps(one.to_dict())}\n\n"
            else:
                data = {"recipe": one.recipe, "sentence": one.sentence}
                yield f"event: alarm\ndata: {json.dumps(data)}\n\n"
    finally:
        service.events.leave(queue)
