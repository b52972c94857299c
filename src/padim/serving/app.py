"""The service over HTTP: one application of several groups of paths."""

from fastapi import FastAPI

import padim
from padim.serving.access import Access, is_loopback
from padim.serving.answers import tell_problems
from padim.serving.health import make_health_routes
from padim.serving.inspections import make_inspection_routes
from padim.serving.line_routes import make_line_routes
from padim.serving.open_inference import make_open_inference_routes
from padim.serving.page import make_event_routes, make_page_routes
from padim.serving.recipe_routes import make_recipe_routes
from padim.serving.service import Service
from padim.serving.tokens import TOKENS


def create_app(service: Service) -> FastAPI:
    """Make the application of a station that runs."""
    app = FastAPI(
        title="padim",
        version=padim.__version__,
        summary="Find and localise defects in pictures after seeing only good ones.",
        docs_url=None,
        redoc_url=None,
    )
    address = service.station.address
    access = Access(service.station.data / TOKENS, (address,), is_open=is_loopback(address))
    for make_routes in (
        make_inspection_routes,
        make_recipe_routes,
        make_line_routes,
        make_open_inference_routes,
        make_event_routes,
        make_page_routes,
        make_health_routes,
    ):
        app.include_router(make_routes(service, access))
    tell_problems(app)
    return app
