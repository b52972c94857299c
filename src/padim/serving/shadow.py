"""A model on trial: it scores what another answers, and is compared with it."""

import logging
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import partial

from padim.serving.lane import MOST_TOGETHER, Scored
from padim.serving.recipes import Opened, Recipe
from padim.store.inspection import Findings, Inspection

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Comparison:
    """What a model on trial says of a picture that another has answered.

    Attributes:
        inspection: The answer.
        label: Of the model on trial; None when it could not keep up, or failed.
        score: Likewise.
    """

    inspection: Inspection
    label: str | None
    score: float | None

    @property
    def is_agreed(self) -> bool | None:
        """Whether both say the same; None when one said nothing."""
        findings: Findings | None = self.inspection.findings
        return None if self.label is None or findings is None else self.label == findings.label


class Shadow:
    """Has pictures scored by the shadow of a recipe, after their answer.

    Args:
        pool: Decodes.
        tell: Told of each picture.
    """

    def __init__(self, pool: Executor, tell: Callable[[Comparison, bytes], None]) -> None:
        self._pool = pool
        self._tell = tell

    def score(self, recipe: Recipe, inspection: Inspection, picture: bytes) -> None:
        """Have a picture scored by a recipe's shadow, if it has one; it never waits."""
        opened = recipe.shadow
        if opened is None:
            return
        if opened.lane.n_inside >= MOST_TOGETHER or not opened.lane.enter():
            self._tell(Comparison(inspection, None, None), picture)
            return
        self._pool.submit(self._decode, opened, inspection, picture)

    def _decode(self, opened: Opened, inspection: Inspection, picture: bytes) -> None:
        try:
            image = opened.predictor.read(picture, hashed=True)
        except Exception:
            _log.exception("the shadow cannot read the picture of %s", inspection.arrival.id)
            opened.lane.leave()
            self._tell(Comparison(inspection, None, None), picture)
            return
        opened.lane.put(image, lambda: True, partial(self._compare, opened, inspection, picture))

    def _compare(
        self, opened: Opened, inspection: Inspection, picture: bytes, scored: Scored
    ) -> None:
        opened.lane.leave()
        found = scored.prediction
        if found is None:
            self._tell(Comparison(inspection, None, None), picture)
        else:
            self._tell(Comparison(inspection, found.label, found.score), picture)
