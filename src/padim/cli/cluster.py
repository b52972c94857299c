"""Workers of a cluster, for the commands that spread their work."""

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from padim.cli.console import say
from padim.errors import ClusterError, UnknownNameError, require_extras

if TYPE_CHECKING:
    from padim.workers.ray_cluster import RayCluster

_REACHED_S = 5.0


def require_cluster(name: str) -> None:
    """Make sure, before any work, that a cluster is there, or that one can be started here.

    Raises:
        UnknownNameError: There is no such kind of cluster.
        MissingExtraError: Ray is not installed.
        ClusterError: Nobody answers at the address.
    """
    if name != "ray":
        raise UnknownNameError("cluster", name, ("ray",))
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
            socket.create_connection((host, int(port)), _REACHED_S).close()
        except (OSError, OverflowError) as error:
            raise ClusterError(
                f"There is no Ray cluster at {address}: {error}. Check RAY_ADDRESS, or leave it "
                "out to work on this machine."
            ) from error


@contextmanager
def hire(name: str | None, n_threads: int | None, device: str) -> Iterator["RayCluster | None"]:
    """The workers of a cluster, each of so many cores, and of a GPU on cuda; none without one."""
    if name is None:
        yield None
        return
    from padim.workers.ray_cluster import connect

    with connect() as cluster:
        found = cluster.asking(n_threads or 1, int(device == "cuda"))
        say(f"Cluster: {found.describe()}.")
        yield found
