"""How a request has its pictures admitted, and waits for their verdicts."""

import asyncio
import time
from collections.abc import Sequence
from concurrent.futures import Future

from padim.serving.inspector import BusyError
from padim.serving.job import Answer
from padim.serving.service import Service

NOT_WRITTEN = "The verdict was not written by the deadline. Treat the part as NOK."


async def require_admission(
    service: Service, recipe: str, deadline_s: float | None, n_pictures: int = 1
) -> None:
    """Make sure that pictures would be admitted now; a model that is not open is opened.

    Raises:
        PadimError: As ``Inspector.require_admission``, or the model cannot be opened.
    """
    if service.recipes[recipe].current is None:
        await asyncio.to_thread(service.recipes.use, recipe)
    try:
        service.inspector.require_admission(recipe, deadline_s, n_pictures)
    except BusyError:
        service.metrics.count_refusal(recipe)
        raise


async def wait_for_answers(pending: Sequence[Future[Answer]], ends_s: float) -> list[Answer] | None:
    """Wait until verdicts are written; None when one is not by a moment of the monotonic clock."""
    answers = asyncio.gather(*map(asyncio.wrap_future, pending))
    try:
        found = await asyncio.wait_for(asyncio.shield(answers), ends_s - time.monotonic())
    except TimeoutError:
        return None
    return found if time.monotonic() < ends_s else None  # of a loop that had much else to do
