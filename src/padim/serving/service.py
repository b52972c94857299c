"""What a running station consists of, put together and taken apart in order."""

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field

from PIL import Image

from padim.files import lock
from padim.line.build import Receivers, build_sink, build_source
from padim.line.supervisor import Supervisor
from padim.serving.bodies import Room
from padim.serving.drift import Drift
from padim.serving.events import N_KEPT, Events
from padim.serving.inspector import Inspector
from padim.serving.job import Answer
from padim.serving.metrics import Metrics
from padim.serving.recipes import Opened, Recipes
from padim.serving.station import Station
from padim.store.inspection import Arrival, refuse
from padim.store.pictures import Pictures
from padim.store.record import Record
from padim.store.store import Store
from padim.store.writer import Writer

_log = logging.getLogger(__name__)
_FOLLOWING_S = 1.0  # between two looks at the files of recipes
_GOODBYE_S = 30.0  # for what is inside when the service ends
_WRITING_S = 10.0  # for what is to be written then
_COMES_AGAIN_S = 300.0  # for sources to bring again what they had handed over
_LOCK = ".serving.lock"
LOST = (
    "The database has let go of this station, as when its server restarts: another service may "
    "take its name. Start this one again."
)
_LEFT_OPEN = "The service ended before it was inspected, and the picture did not come again."


@dataclass(frozen=True)
class Service:
    """A station that runs."""

    station: Station
    recipes: Recipes
    store: Store
    writer: Writer
    pictures: Pictures
    inspector: Inspector
    events: Events
    metrics: Metrics
    supervisor: Supervisor
    drift: Drift
    room: Room
    is_ready: threading.Event = field(default_factory=threading.Event)
    # The database has let go: another service may be this station by now.
    is_lost: threading.Event = field(default_factory=threading.Event)


@contextmanager
def run_service(station: Station) -> Iterator[Service]:
    """Open what a station needs; at the end all that was admitted is answered and written.

    Raises:
        PadimError: A model, the database or the folder cannot be opened, or another service uses
            the folder.
    """
    station.data.mkdir(parents=True, exist_ok=True)
    # Another service would end, as left open, what this one has in flight.
    with (
        lock(station.data / _LOCK, f"serves from {station.data}. Name another folder with --data"),
        _limit_pixels(station.limits.picture_px),
        closing(Store.open(station.database, station.name)) as store,
        store.hold() as is_held,
    ):
        service = _build(station, store)
        service.recipes.open_all()
        stop = threading.Event()
        left = _list_left_open(service)  # before anything new comes
        housekeeper = threading.Thread(
            target=_keep_house, args=(service, left, is_held, stop), name="padim-house", daemon=True
        )
        housekeeper.start()
        service.supervisor.start()
        service.is_ready.set()
        try:
            yield service
        finally:
            service.is_ready.clear()
            stop.set()
            housekeeper.join()
            service.supervisor.stop_sources()
            service.inspector.close(_GOODBYE_S)
            if not service.writer.close(_WRITING_S):
                _log.error("Some verdicts could not be written: %s", service.writer.trouble)
            service.inspector.release()
            service.supervisor.stop_sinks()
            with _logging("the drift alarm cannot be written down"):
                service.drift.close()
            service.recipes.close()


def _build(station: Station, store: Store) -> Service:
    """Put the parts of a station together."""
    receivers = Receivers(station.sinks)
    writer = Writer(store, receivers)
    events = Events(_list_last(station, store))

    def note(name: str, opened: Opened) -> None:
        predictor = opened.predictor
        sha256 = predictor.file_sha256 or ""
        store.record_model(name, sha256, predictor.description.words(), time.time())

    recipes = Recipes(station.recipes, station.computing, station.data / "models", note)
    drift = Drift(store, lambda name: recipes[name].settings.monitor, events.send_alarm)
    metrics = Metrics(recipes, drift)

    def watch(answer: Answer) -> None:
        events.send(answer)
        metrics.count(answer)
        supervisor.wake()

    pictures = Pictures(station.data / "pictures", station.retention)
    inspector = Inspector(
        recipes,
        writer,
        pictures,
        watch,
        metrics.count_comparison,
        drift.look,
    )
    supervisor = Supervisor(
        lambda part, source: inspector.inspect_part(part, station.name_source(source)),
        store,
        [build_source(one) for one in station.sources],
        [build_sink(one) for one in station.sinks],
    )
    return Service(
        station,
        recipes,
        store,
        writer,
        pictures,
        inspector,
        events,
        metrics,
        supervisor,
        drift,
        Room(station.limits.waiting_bytes),
    )


def _list_last(station: Station, store: Store) -> list[Record]:
    """What this station has inspected last, the oldest first."""
    own = station.name_source("")
    found = [one for one in store.find(limit=N_KEPT) if one.arrival.source.startswith(own)]
    return [Record.of(one) for one in reversed(found)]


@contextmanager
def _limit_pixels(n_px: int) -> Iterator[None]:
    """Have whatever decodes refuse larger pictures, from their headers.

    Pillow keeps that limit for all of a process.
    """
    before, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, n_px
    try:
        yield
    finally:
        Image.MAX_IMAGE_PIXELS = before


def _list_left_open(service: Service) -> list[Arrival]:
    """What this station had accepted when it last ended, and not finished."""
    own = service.station.name_source("")
    return [one for one in service.store.list_pending() if one.source.startswith(own)]


def _keep_house(
    service: Service, left: list[Arrival], is_held: Callable[[], bool], stop: threading.Event
) -> None:
    """Follow the files of recipes, and end what was left open when the station last ended."""
    station, writer = service.station, service.writer
    came_by = {station.name_source(one.name) for one in station.sources}
    for one in left:
        # Who sent it by HTTP has had no answer, and may send it again.
        if one.source not in came_by:
            writer.finish(refuse(one, _LEFT_OPEN))
    until_s = time.monotonic() + _COMES_AGAIN_S
    while not stop.wait(_FOLLOWING_S):
        with _logging("the files of recipes cannot be followed"):
            service.recipes.follow_files()
        if not service.is_lost.is_set() and not is_held():
            service.is_lost.set()
            _log.error("%s", LOST)
        if left and time.monotonic() > until_s:
            for one in left:
                writer.finish(refuse(one, _LEFT_OPEN))  # one that has come again keeps its verdict
            left = []


@contextmanager
def _logging(what: str) -> Iterator[None]:
    """Log what goes wrong in a ``with`` block, and go on after it."""
    try:
        yield
    except Exception:
        _log.exception(what)
