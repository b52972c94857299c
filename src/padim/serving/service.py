"""What a running station consists of, put together and taken apart in order."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from padim.line.build import build_sink, build_source, list_receivers
from padim.line.supervisor import Supervisor
from padim.serving.events import Events
from padim.serving.inspector import Answer, Inspector
from padim.serving.metrics import Metrics
from padim.serving.recipes import Recipes
from padim.serving.station import Station
from padim.store.inspection import refuse
from padim.store.pictures import Pictures
from padim.store.store import Store
from padim.store.writer import Writer

_FOLLOWING_S = 1.0  # between two looks at the files of recipes
LEFT_OPEN = "The service ended before it was inspected."


@dataclass(frozen=True)
class Service:
    """A station that runs."""

    station: Station
    recipes: Recipes
    store: Store
    pictures: Pictures
    inspector: Inspector
    events: Events
    metrics: Metrics
    supervisor: Supervisor
    is_ready: threading.Event = field(default_factory=threading.Event)


@contextmanager
def run_service(station: Station) -> Iterator[Service]:
    """Open what a station needs; at the end all that was admitted is answered and written.

    Raises:
        PadimError: A model, the database or the folder cannot be opened.
    """
    recipes = Recipes(station.recipes, station.computing, station.data / "models")
    recipes.open_all()
    station.data.mkdir(parents=True, exist_ok=True)
    store = Store.open(station.database)
    try:
        # What came by HTTP and has no verdict: who sent it has no answer, and may send it again.
        left = [one for one in store.list_pending() if one.key is None]
        receivers = list_receivers(station.sinks, list(station.recipes))
        store.finish([refuse(one, LEFT_OPEN) for one in left], receivers)
        pictures = Pictures(station.data / "pictures", station.retention)
        writer = Writer(store, receivers)
        events = Events()
        metrics = Metrics(recipes)

        def watch(answer: Answer) -> None:
            events.send(answer)
            metrics.count(answer)
            supervisor.wake()

        inspector = Inspector(recipes, writer, pictures, watch, metrics.count_comparison)
        supervisor = Supervisor(
            inspector.inspect_part,
            store,
            [build_source(one) for one in station.sources],
            [build_sink(one) for one in station.sinks],
        )
        service = Service(station, recipes, store, pictures, inspector, events, metrics, supervisor)
        stop = threading.Event()
        follower = threading.Thread(
            target=_follow_files, args=(recipes, stop), name="padim-follow", daemon=True
        )
        follower.start()
        supervisor.start()
        service.is_ready.set()
        try:
            yield service
        finally:
            service.is_ready.clear()
            stop.set()
            supervisor.stop_sources()
            inspector.close()
            writer.close()
            supervisor.stop_sinks()
            recipes.close()
    finally:
        store.close()


def _follow_files(recipes: Recipes, stop: threading.Event) -> None:
    while not stop.wait(_FOLLOWING_S):
        recipes.follow_files()
