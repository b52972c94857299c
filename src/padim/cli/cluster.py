"""Workers of a cluster, for the commands that spread their work."""

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from padim.cli.console import say
from padim.cli.options import Opening, Rates
from padim.errors import ClusterError, UnknownNameError, require_extras
from padim.scoring.engines import choose_threads

if TYPE_CHECKING:
    from padim.model.spread import Scorers
    from padim.workers.protocol import Cluster

CLUSTERS = ("ray", "torchrun")
_REACHED_S = 5.0
_SETTINGS = bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])  # a frame of HTTP/2; its kind is the fourth byte
# How a client of it begins, as of Ray; a server sends its own settings at once.
_GREETING = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + _SETTINGS


def require_cluster(name: str) -> None:
    """Make sure, before any work, that a cluster is there, or that one can be started here.

    Of what ``torchrun`` starts, all but the first process end here, once they have done their part.

    Raises:
        UnknownNameError: There is no such kind of cluster.
        MissingExtraError: Ray is not installed.
        ClusterError: Nobody answers at the address.
    """
    if name not in CLUSTERS:
        raise UnknownNameError("cluster", name, CLUSTERS)
    if name == "torchrun":
        _require_first_rank()
        return
    require_extras("cluster")
    address = os.environ.get("RAY_ADDRESS", "")
    host, colon, port = address.rpartition(":")
    if "://" in address or (colon and not port.isdecimal()):
        raise ClusterError(
            f"RAY_ADDRESS is {address}, but needs to be HOST:PORT. Run the command on a machine of "
            "the cluster."
        )
    if colon:
        try:
            _greet(host, int(port), is_secret=os.environ.get("RAY_USE_TLS", "0") != "0")
        except (OSError, OverflowError) as error:
            raise ClusterError(
                f"There is no Ray cluster at {address}: {error}. Check RAY_ADDRESS, or leave it "
                "out to work on this machine."
            ) from error


def _greet(host: str, port: int, *, is_secret: bool) -> None:
    """Make sure that who answers may be Ray, which itself waits minutes for another server.

    Raises:
        OSError: Nobody answers, or another server does.
    """
    with socket.create_connection((host, port), _REACHED_S) as there:
        if is_secret:
            return
        there.sendall(_GREETING)
        with there.makefile("rb") as said:
            if said.read(len(_SETTINGS))[3:4] != _SETTINGS[3:4]:
                raise ConnectionError("another server answers")


def _require_first_rank() -> None:
    from padim.workers import ranks

    ranks.require_ranks()
    if not ranks.is_first():
        ranks.follow()
        raise typer.Exit


@contextmanager
def hire(name: str | None, n_threads: int | None, device: str) -> Iterator["Cluster | None"]:
    """The workers of a cluster, each of so many cores, and of a GPU on cuda; none without one."""
    if name is None:
        yield None
        return
    if name == "torchrun":
        from padim.workers.ranks import lead

        with lead(choose_threads(n_threads)) as ranks:
            say(f"Cluster: {ranks.describe()}.")
            yield ranks
        return
    from padim.workers.ray_cluster import connect

    with connect() as cluster:
        found = cluster.asking(n_threads or 1, int(device == "cuda"))
        say(f"Cluster: {found.describe()}.")
        yield found


@contextmanager
def hire_scorers(
    name: str | None, model: Path, opening: Opening, rates: Rates
) -> Iterator["Scorers | None"]:
    """The workers of a cluster that score images by a model; none without one."""
    with hire(name, opening.get("n_threads"), opening.get("device", "auto")) as workers:
        if workers is None:
            yield None
            return
        from padim.model.spread import Opened, Scorers

        opening["n_threads"] = workers.n_threads
        yield Scorers(workers, Opened(model, **opening, **rates))
