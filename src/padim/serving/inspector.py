"""From a picture to a verdict that is written down: admission, decoding, scoring, writing."""

import hashlib
import logging
import math
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from functools import partial

from PIL import Image

from padim.errors import ImageReadError, PadimError, failure_of
from padim.images.ahead import DECODE_THREADS
from padim.line.protocols import Part
from padim.scoring.prediction import Prediction
from padim.serving.deadlines import Deadlines
from padim.serving.job import Answer, Job, find
from padim.serving.lane import Scored
from padim.serving.recipes import Recipes
from padim.serving.shadow import Comparison, Shadow
from padim.store.inspection import (
    Arrival,
    Inspection,
    Milliseconds,
    Verdict,
    name_inspection,
    refuse,
)
from padim.store.pictures import Pictures
from padim.store.writer import Writer

_SAFETY = 1.5  # over the pace that is measured
_LEAST_WRITING_S = 0.005
_FORGETTING = 0.02  # by each answer, of the longest that writing one took
_log = logging.getLogger(__name__)


class BusyError(PadimError):
    """A picture that would not be answered by its deadline is not admitted."""

    def __init__(self, recipe: str, needs_s: float, deadline_s: float) -> None:
        self.retry_after_s = max(needs_s - deadline_s, 0.0)
        super().__init__(
            f"The recipe {recipe} would answer in {1e3 * needs_s:.0f} ms, but the deadline is "
            f"{1e3 * max(deadline_s, 0.0):.0f} ms. Send the picture later, or to another station."
        )


class StoppingError(PadimError):
    """The service is stopping, and takes no more pictures."""

    def __init__(self) -> None:
        super().__init__("The service is stopping and takes no more pictures. Try again later.")


class Inspector:
    """Inspects pictures, and answers once the verdict is written.

    Args:
        recipes: What pictures are inspected by.
        writer: Writes arrivals and verdicts.
        pictures: Keeps pictures.
        watch: Told of each answer; it must not take long.
        compare: Told what a model on trial says of a picture, likewise.
        look: Told of a recipe, a prediction and the name of its part; says what the drift alarm
            does.
    """

    def __init__(
        self,
        recipes: Recipes,
        writer: Writer,
        pictures: Pictures,
        watch: Callable[[Answer], None],
        compare: Callable[[Comparison], None],
        look: Callable[[str, Prediction, str], str],
    ) -> None:
        self.recipes = recipes
        self._writer = writer
        self._pictures = pictures
        self._watch = watch
        self._pool = ThreadPoolExecutor(DECODE_THREADS, thread_name_prefix="padim-decode")
        # They wait for the database, which must not keep decoding.
        self._writers = ThreadPoolExecutor(DECODE_THREADS, thread_name_prefix="padim-write")
        self._shadow = Shadow(self._pool, self._note_comparison)
        self._compare = compare
        self._look = look
        self._deadlines = Deadlines()
        self._is_stopping = False
        self._writing_s = _LEAST_WRITING_S  # from a score to its answer, at worst of late
        self._n_open = 0
        self._idle = threading.Condition()

    @property
    def n_open(self) -> int:
        """Pictures that were admitted and are not answered."""
        return self._n_open

    def require_admission(
        self, recipe: str, deadline_s: float | None = None, n_pictures: int = 1
    ) -> None:
        """Make sure that so many pictures would be admitted now.

        Raises:
            UnknownNameError: There is no such recipe.
            BusyError: It would not be answered by its deadline.
            StoppingError: The service is stopping.
        """
        if self._is_stopping:
            raise StoppingError
        lane = self.recipes.use(recipe).lane
        within_s = self.choose_deadline_s(recipe, deadline_s)
        needs_s = _SAFETY * lane.estimate_s(n_pictures) + self._reserve_s(within_s)
        if needs_s > within_s and lane.n_inside + n_pictures > 1:
            raise BusyError(recipe, needs_s, within_s)

    def inspect(
        self, arrival: Arrival, picture: bytes, deadline_s: float | None = None
    ) -> Future[Answer]:
        """Inspect a picture.

        Args:
            arrival: What came.
            picture: The bytes of an image file.
            deadline_s: Seconds from now until the answer; that of the recipe when None.

        Returns:
            The answer, once its verdict is written. It fails when the verdict cannot be written.

        Raises:
            UnknownNameError: There is no such recipe.
            BusyError: It would not be answered by its deadline.
            StoppingError: The service is stopping.
        """
        self.require_admission(arrival.recipe, deadline_s)
        lane = self.recipes.use(arrival.recipe).lane
        while not lane.enter():  # its model has just been changed
            lane = self.recipes.use(arrival.recipe).lane
        job = Job(arrival, picture, lane)
        with self._idle:
            is_stopping = self._is_stopping
            self._n_open += not is_stopping
        if is_stopping:
            lane.leave()
            raise StoppingError
        job.answer.add_done_callback(partial(self._leave, job))
        job.accepted = self._writer.accept(arrival)
        within_s = self.choose_deadline_s(arrival.recipe, deadline_s)
        if within_s < math.inf:
            late = partial(
                self._refuse, job, "The picture was not scored by its deadline.", is_late=True
            )
            ends_s = job.arrived_s + within_s - self._reserve_s(within_s)
            let_go = self._deadlines.at(ends_s, late)
            job.answer.add_done_callback(lambda _answer: let_go())
        self._pool.submit(self._decode, job)
        return job.answer

    def inspect_part(self, part: Part, source: str) -> Future[Inspection]:
        """Inspect what a source hands over, whatever it is: its future always ends in an answer.

        It waits for its turn instead of being refused, unless it has a deadline itself.
        """
        arrival = Arrival(
            name_inspection(time.time()),
            part.recipe,
            part.time_s,
            source,
            part.key,
            part.serial,
            part.tags,
        )
        return _drop_prediction(self._inspect_part(arrival, part))

    def _inspect_part(self, arrival: Arrival, part: Part) -> Future[Answer]:
        if part.picture is None:
            return self.record_refusal(arrival, part.reason)
        deadline_s = math.inf if part.deadline_s is None else part.deadline_s
        try:
            return self.inspect(arrival, part.picture, deadline_s)
        except StoppingError:
            raise
        except Exception as error:  # of an unknown recipe, or a model that cannot be opened
            return self.record_refusal(arrival, _describe(error))

    def record_refusal(self, arrival: Arrival, reason: str) -> Future[Answer]:
        """Write down that something came and is not inspected, for a reason that is a sentence."""
        answer: Future[Answer] = Future()
        accepted = self._writer.accept(arrival)
        self._writers.submit(
            self._write, answer, accepted, Answer(refuse(arrival, reason), None), b""
        )
        return answer

    def close(self, timeout_s: float | None = None) -> bool:
        """Admit nothing more, and wait until all that was admitted is answered; whether it is."""
        with self._idle:
            self._is_stopping = True
            return self._idle.wait_for(lambda: not self._n_open, timeout_s)

    def release(self) -> None:
        """End the threads, once the writer has ended, for which some may wait."""
        self._pool.shutdown()
        self._writers.shutdown()
        self._deadlines.close()

    def choose_deadline_s(self, recipe: str, deadline_s: float | None = None) -> float:
        """Seconds from an arrival to its answer; that of the recipe when None."""
        return self.recipes[recipe].settings.deadline_ms / 1e3 if deadline_s is None else deadline_s

    def _reserve_s(self, within_s: float) -> float:
        """Seconds before a deadline that are left for writing.

        A database that has stood still once leaves half of each deadline for scoring: else no
        picture would show that it does no more.
        """
        return min(self._writing_s, within_s / 2)

    def _decode(self, job: Job) -> None:
        if not job.is_open:
            return
        started_s = time.monotonic()
        job.waited_ms = 1e3 * (started_s - job.arrived_s)
        try:
            job.image_sha256 = hashlib.sha256(job.picture).hexdigest()
            image = job.lane.predictor.read(job.picture)
            image = replace(image, sha256=job.image_sha256)
        except Exception as error:
            self._refuse(job, _describe(error))
            return
        job.decode_ms = 1e3 * (time.monotonic() - started_s)
        job.lane.put(image, lambda: job.is_open, partial(self._take_score, job))

    def _take_score(self, job: Job, scored: Scored) -> None:
        if scored.prediction is None:
            self._refuse(job, scored.failure)
        elif job.claim():
            self._writers.submit(self._judge, job, scored, scored.prediction)

    def _judge(self, job: Job, scored: Scored, prediction: Prediction) -> None:
        """Say what was found, and write it."""
        settings = self.recipes[job.arrival.recipe].settings
        took = Milliseconds(job.waited_ms + scored.queue_ms, job.decode_ms, scored.score_ms)
        try:
            word = self._ask_alarm(job.arrival, prediction)
            findings = find(prediction, settings.min_region_px, word)
            inspection = Inspection(
                job.arrival,
                Verdict.NOK if findings.label == "anomalous" else Verdict.OK,
                time.time(),
                image_sha256=job.image_sha256,
                image_bytes=len(job.picture),
                findings=findings,
                took=took,
            )
        except Exception as error:
            inspection = job.refuse(_describe(error))
        answer = Answer(inspection, prediction, n_together=scored.n_together)
        picture = job.picture
        self._write(job.answer, job.accepted, answer, picture)
        self._shadow.score(self.recipes[job.arrival.recipe], inspection, picture)

    def _ask_alarm(self, arrival: Arrival, prediction: Prediction) -> str:
        """What the drift alarm does; its mistakes take no verdict with them."""
        try:
            return self._look(arrival.recipe, prediction, arrival.serial or arrival.id)
        except Exception:
            _log.exception("the drift alarm of %s cannot look at %s", arrival.recipe, arrival.id)
            return "failed"

    def _refuse(self, job: Job, reason: str, *, is_late: bool = False) -> None:
        if job.claim():
            answer = Answer(job.refuse(reason), None, is_late)
            self._writers.submit(self._write, job.answer, job.accepted, answer, job.picture)

    def _write(
        self,
        future: Future[Answer],
        accepted: Future[Arrival | Inspection],
        answer: Answer,
        picture: bytes,
    ) -> None:
        """Write a verdict, and answer then; in a thread that may wait."""
        try:
            was = accepted.result()
        except Exception as error:
            future.set_exception(error)
            return
        if isinstance(was, Inspection):
            future.set_result(Answer(was, None))
            return
        inspection = replace(answer.inspection, arrival=was)
        if picture:
            if inspection.image_sha256 is None:  # it was late before it was looked at
                sha256 = hashlib.sha256(picture).hexdigest()
                inspection = replace(inspection, image_sha256=sha256)
            try:
                self._pictures.keep(inspection, picture)
            except Exception:  # a picture that cannot be kept takes no verdict with it
                _log.exception("the picture of %s cannot be kept", was.id)

        def tell(written: Future[Inspection]) -> None:
            error = written.exception()
            if error is not None:
                future.set_exception(error)
                return
            final = replace(answer, inspection=written.result())
            future.set_result(final)
            self._watch(final)

        self._writer.finish(inspection).add_done_callback(tell)

    def _note_comparison(self, comparison: Comparison, picture: bytes) -> None:
        """Keep the picture on which two models disagree."""
        self._compare(comparison)
        if comparison.is_agreed is False:
            self._writers.submit(self._pictures.keep_disputed, comparison.inspection, picture)

    def _leave(self, job: Job, _answer: Future[Answer]) -> None:
        job.picture = b""
        job.lane.leave()
        took_s = time.monotonic() - job.claimed_s
        faded_s = self._writing_s + _FORGETTING * (took_s - self._writing_s)
        self._writing_s = max(took_s, faded_s, _LEAST_WRITING_S)
        with self._idle:
            self._n_open -= 1
            self._idle.notify_all()


def _drop_prediction(answered: Future[Answer]) -> Future[Inspection]:
    """The inspection of an answer alone, which takes no memory."""
    found: Future[Inspection] = Future()

    def pass_on(done: Future[Answer]) -> None:
        error = done.exception()
        if error is None:
            found.set_result(done.result().inspection)
        else:
            found.set_exception(error)

    answered.add_done_callback(pass_on)
    return found


def _describe(error: Exception) -> str:
    """Why a picture is not inspected, in a sentence."""
    if isinstance(error.__cause__, Image.DecompressionBombError):
        return (
            f"The picture has more than {Image.MAX_IMAGE_PIXELS} pixels, the most that is taken. "
            "Send a smaller one, or allow more in [limits] of a station.toml."
        )
    if isinstance(error, ImageReadError):
        return f"The picture cannot be read as an image: {error.reason}."
    failure = failure_of(error)
    if failure is not None:
        return failure[1]
    _log.exception("a picture cannot be inspected", exc_info=error)
    return f"The picture cannot be inspected ({type(error).__name__}: {error})."
