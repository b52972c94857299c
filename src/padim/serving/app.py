"""The service over HTTP: one application of several groups of paths."""

from fastapi import FastAPI

import padim
from padim.serving.answers import tell_problems
from padim.serving.inspections import make_inspection_routes
from padim.serving.service import Service


def create_app(service: Service) -> FastAPI:
    """Make the application of a station that runs."""
    app = FastAPI(
        title="padim",
        version=padim.__version__,
        summary="Find and localise defects in pictures after seeing only good ones.",
        docs_url=None,
        redoc_url=None,
    )
    app.include_router(make_inspection_routes(service))
    tell_problems(app)
    return app
