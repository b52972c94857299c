"""``/v1/recipes``: what pictures are inspected by, and how that is changed."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from fastapi import APIRouter, Depends, HTTPException, Request, Response

from padim.errors import ModelFileError, PadimError, failure_of
from padim.files import write_whole
from padim.scoring.predictor import Predictor
from padim.scoring.reference import Reference
from padim.serving.access import Access
from padim.serving.answers import answer_json, describe_problems
from padim.serving.bodies import Room, read_body
from padim.serving.recipes import Opened, Recipe
from padim.serving.service import Service
from padim.serving.tokens import Role

_USUAL = 0.99
_MOST_BYTES = 4 << 30  # of a model that is sent


@dataclass(frozen=True)
class ModelAnswer:
    """A model that is open.

    Attributes:
        sha256: Of its file.
        words: What it is, in one line.
        engine: Who computes.
        threshold: Pictures that score higher are NOK.
        threshold_kind: How that was found.
        false_alarm_rate: What it stands for.
        n_samples: Images that it brings and whose scores it has reproduced here; 0 if none.
        memory_bytes: What it takes, as forecast.
        n_good: Good images that its threshold rests on.
        level_names: What each level score is of, coarse to fine.
        levels_usual: The score of each level that a hundredth of them exceed; empty in models that
            do not keep it.
    """

    sha256: str | None
    words: str
    engine: str
    threshold: float
    threshold_kind: str
    false_alarm_rate: float
    n_samples: int
    memory_bytes: int
    n_good: int
    level_names: list[str]
    levels_usual: list[float]


@dataclass(frozen=True)
class RecipeAnswer:
    """A recipe.

    Attributes:
        name: Its name.
        deadline_ms: From a picture to its answer, at most.
        n_inside: Pictures that were admitted and are not answered.
        current: The model that answers; None while others have its memory.
        previous: What answered before, and would again after a rollback.
        shadow: What scores as well and answers nothing.
        trouble: Why the model that lies in its file was not taken; empty when it was.
        alarm: What the drift alarm has said, and nobody has cleared; empty when it is quiet.
        warning: What is wrong with the threshold of the model that answers; empty when nothing is.
    """

    name: str
    deadline_ms: float
    n_inside: int
    current: ModelAnswer | None
    previous: ModelAnswer | None
    shadow: ModelAnswer | None
    trouble: str
    alarm: str
    warning: str


def make_recipe_routes(service: Service, access: Access) -> APIRouter:
    """The paths of ``/v1/recipes``."""
    routes = APIRouter(prefix="/v1/recipes", tags=["recipes"])
    room = Room(_MOST_BYTES)
    see, change = (Depends(access.require(role)) for role in (Role.OPERATE, Role.ENGINEER))

    @routes.get(
        "",
        response_model=list[RecipeAnswer],
        responses=describe_problems(401, 403),
        dependencies=[see],
    )
    async def list_recipes() -> Response:
        """All recipes, and what they are inspected by."""
        return answer_json([describe_recipe(service, one) for one in service.recipes.values()])

    @routes.get(
        "/{recipe}",
        response_model=RecipeAnswer,
        responses=describe_problems(401, 403, 404),
        dependencies=[see],
    )
    async def get_recipe(recipe: str) -> Response:
        """One recipe."""
        return answer_json(describe_recipe(service, service.recipes[recipe]))

    @routes.put(
        "/{recipe}/model",
        response_model=RecipeAnswer,
        responses=describe_problems(400, 401, 403, 404, 408, 409, 413, 422, 503),
        dependencies=[change],
        openapi_extra={
            "requestBody": {
                "required": True,
                "content": {
                    "application/octet-stream": {"schema": {"type": "string", "format": "binary"}}
                },
            }
        },
    )
    async def change_model(request: Request, recipe: str) -> Response:
        """Let another model answer: the body is the file, of the kind of the one that is there.

        It is taken when it has reproduced its samples on this machine; until then, and when it has
        not, the old one answers.
        """
        path = service.recipes[recipe].settings.model
        if path.suffix == ".xml":
            raise HTTPException(
                400,
                f"The recipe {recipe} has an OpenVINO graph, whose weights are another file. Copy "
                "both into the place of the old ones.",
            )
        async with read_body(request, _MOST_BYTES, room) as content:
            with _telling():
                await asyncio.to_thread(_change, service, recipe, path, content)
        return answer_json(describe_recipe(service, service.recipes[recipe]))

    @routes.post(
        "/{recipe}/rollback",
        response_model=RecipeAnswer,
        responses=describe_problems(401, 403, 404, 409, 422),
        dependencies=[change],
    )
    async def go_back(recipe: str) -> Response:
        """Let the model answer that did before."""
        with _telling():
            await asyncio.to_thread(service.recipes.go_back, recipe)
        return answer_json(describe_recipe(service, service.recipes[recipe]))

    @routes.delete(
        "/{recipe}/alarm",
        response_model=RecipeAnswer,
        responses=describe_problems(401, 403, 404),
        dependencies=[see],
    )
    async def clear_alarm(recipe: str) -> Response:
        """Say that somebody has seen to the drift alarm."""
        name = service.recipes[recipe].name
        await asyncio.to_thread(service.drift.clear, name)
        return answer_json(describe_recipe(service, service.recipes[recipe]))

    return routes


def describe_recipe(service: Service, recipe: Recipe) -> RecipeAnswer:
    """What there is to know of a recipe."""
    alarm = service.drift.find_alarm(recipe.name)
    return RecipeAnswer(
        recipe.name,
        recipe.settings.deadline_ms,
        recipe.current.lane.n_inside if recipe.current else 0,
        _describe_model(recipe.current),
        _describe_model(recipe.previous),
        _describe_model(recipe.shadow),
        recipe.trouble,
        alarm.sentence if alarm else "",
        recipe.warning,
    )


def _describe_model(opened: Opened | None) -> ModelAnswer | None:
    if opened is None:
        return None
    predictor = opened.predictor
    assert predictor.decision is not None
    threshold = predictor.decision.threshold
    return ModelAnswer(
        predictor.file_sha256,
        predictor.description.words(),
        predictor.engine,
        threshold.score,
        threshold.kind,
        threshold.rate,
        opened.n_samples,
        opened.n_bytes,
        predictor.decision.calibration.count,
        _name_levels(predictor),
        _find_usual(predictor.decision.calibration.reference),
    )


def _name_levels(predictor: Predictor) -> list[str]:
    """What each level score is of: cells of a grid, or the whole as a coarse head sees it."""
    facts = predictor.description.facts
    grids = [f"{level['grid'][0]} × {level['grid'][1]} cells" for level in facts["levels"]]
    return [*grids, "coarse head"] if facts["recipe"].get("coarse_scale") else grids


def _find_usual(reference: Reference | None) -> list[float]:
    """The score of each level that a hundredth of good images exceed."""
    if reference is None or not reference.level_scores.size:
        return []
    return [float(one) for one in np.quantile(reference.level_scores, _USUAL, axis=0)]


@contextmanager
def _telling() -> Iterator[None]:
    """Answer 409 where files of a model cannot be read or written in a ``with`` block."""
    try:
        yield
    except OSError as error:
        failure = failure_of(error)
        if failure is None:
            raise
        raise HTTPException(409, failure[1]) from error


def _change(service: Service, recipe: str, path: Path, content: bytes) -> None:
    """Put a model into the place of the old one, if it could answer."""
    with write_whole(path) as partial:
        partial.write_bytes(content)
        try:
            service.recipes.try_model(recipe, partial)
        except PadimError as error:  # its name of now says nothing to whoever sent it
            words = str(error).replace(str(partial), "The model that was sent")
            raise ModelFileError(words) from error
    service.recipes.change(recipe)
