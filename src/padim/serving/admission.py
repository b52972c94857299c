"""How a request has its pictures admitted, and waits for their verdicts."""

import asyncio
from collections.abc import Sequence
from concurrent.futures import Future

from padim.serving.inspector import BusyError
from padim.serving.job import Answer
from padim.serving.service import Service

_GRACE_S = 2.0  # beyond a deadline, for a verdict to be written


async def require_admission(
    service: Service, recipe: str, deadline_s: float | None, n_pictures: int = 1
) -> None:
    """Make sure that pictures would be admitted now.

    Raises:
        PadimError: As ``Inspector.require_admission``, or the model cannot be opened.
    """
    await open_model(service, recipe)
    try:
        service.inspector.require_admission(recipe, deadline_s, n_pictures)
    except BusyError:
        service.metrics.count_refusal(recipe)
        raise


async def open_model(service: Service, recipe: str) -> None:
    """Open the model of a recipe if others have taken its memory; meanwhile all else goes on.

    Raises:
        PadimError: It cannot be opened, or there is no such recipe.
    """
    if service.recipes[recipe].current is None:
        await asyncio.to_thread(service.recipes.use, recipe)


async def wait_for_answers(
    service: Service, recipe: str, deadline_s: float | None, pending: Sequence[Future[Answer]]
) -> list[Answer] | None:
    """Wait until verdicts are written; None when one is not, some time after the deadline."""
    within_s = service.inspector.choose_deadline_s(recipe, deadline_s) + _GRACE_S
    answers = asyncio.gather(*map(asyncio.wrap_future, pending))
    try:
        return await asyncio.wait_for(asyncio.shield(answers), within_s)
    except TimeoutError:
        return None
