"""The user's cache of trunks: each under what it is, checked when it is read, all within a bound.

A graph is kept under the hash of the tensors in it, and what else decides it. The tensors of a
weights file are kept under the hash of that file; they spare a fit from loading the library that
builds the network.
"""

import hashlib
import json
import os
import time
from collections import defaultdict
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from padim.features.encoder import Encoder
from padim.files import write_whole
from padim.tensors.file_tensor import hash_tensor, write_tensors
from padim.tensors.reading import TensorFileError, open_tensors
from padim.versions import read_versions

_VERSION = "3"  # of what is written; what is there of another is removed
_MOST_BYTES = 2_000_000_000


class TrunkTensors(NamedTuple):
    """A trunk's tensors, and the bytes of feature maps that one image takes."""

    tensors: dict[str, Tensor]
    activation_bytes: int


def hash_trunk(tensors: Mapping[str, Tensor]) -> str:
    """The sha256 of a trunk's tensors: names, types, shapes and bytes."""
    hashes = {name: hash_tensor(tensor) for name, tensor in tensors.items()}
    return _hash_facts(hashes)


def find_graph(encoder: Encoder, trunk_sha256: str) -> Path:
    """Where a trunk of these tensors is kept as a graph, as what is installed here writes it."""
    window = encoder.of_window()
    facts = {
        "trunk_sha256": trunk_sha256,
        "backbone": asdict(window.spec),
        "levels": window.pyramid.to_json(),
        "coarse": window.pyramid.coarse and window.pyramid.coarse.to_json(),
        "mirrored": window.mirrored,
        "preprocess": window.preprocess.to_json(),
        "versions": read_versions(),
    }
    return _folder() / f"{_VERSION}-{_hash_facts(facts)}.onnx"


def find_tensors(encoder: Encoder, file_sha256: str) -> Path:
    """Where the trunk's tensors of a weights file are kept."""
    facts = {
        "file_sha256": file_sha256,
        "backbone": asdict(encoder.spec),
        "window_px": encoder.tiling.window_px,
        "versions": read_versions(),
    }
    return _folder() / f"{_VERSION}-{_hash_facts(facts)}.safetensors"


def read_tensors(path: Path) -> TrunkTensors | None:
    """The trunk's tensors of a weights file; None, and no file, if they are not what was kept."""
    try:
        with open_tensors(path) as file:
            found = file.read().tensors
            tensors = {name: one for name, one in found.items() if isinstance(one, Tensor)}
            trunk = TrunkTensors(tensors, int(file.metadata["activation_bytes"]))
            if file.metadata["sha256"] == _hash_kept(path, trunk):
                mark_used(path)
                return trunk
    except (OSError, TensorFileError, LookupError, ValueError):
        pass
    with suppress(OSError):
        path.unlink()
    return None


def keep_tensors(path: Path, trunk: TrunkTensors) -> None:
    """Keep the trunk's tensors of a weights file."""
    sizes = {"activation_bytes": str(trunk.activation_bytes)}
    with write_whole(path) as partial:
        write_tensors(trunk.tensors, partial, sizes | {"sha256": _hash_kept(path, trunk)})


def mark_used(path: Path) -> None:
    """Let a file be the last to be swept; when it was written stays."""
    with suppress(OSError):
        os.utime(path, ns=(time.time_ns(), path.stat().st_mtime_ns))


def sweep(*in_use: Path | None) -> None:
    """Remove what is of other versions, and beyond the bound what was not used for longest.

    What is in use stays, whatever it takes, so that it is not written anew each time.
    """
    stay = {path.stem for path in in_use if path is not None}
    places = defaultdict(list)
    for path in _folder().iterdir():
        places[path.name.partition(".")[0]].append(path)  # a graph and its weights, if beside it
    places.pop("", None)  # temporary files, which who writes sweeps
    kept = []
    for name, paths in places.items():
        with suppress(OSError):  # another process removes it as well
            facts = [path.stat() for path in paths]
            used = 0.0 if not name.startswith(f"{_VERSION}-") else max(s.st_atime for s in facts)
            kept.append((used, sum(s.st_size for s in facts), paths))
    n_bytes = 0
    for used, size, paths in sorted(kept, key=lambda one: one[0], reverse=True):
        n_bytes += size
        if stay.intersection(path.stem for path in paths):
            continue
        if n_bytes > _MOST_BYTES or not used:
            for path in paths:
                with suppress(OSError):  # Windows removes no file that is open
                    path.unlink()


def _folder() -> Path:
    import platformdirs

    return platformdirs.user_cache_path("padim-efficientnet") / "trunks"


def _hash_kept(path: Path, trunk: TrunkTensors) -> str:
    return _hash_facts(
        {
            "key": path.stem,
            "trunk_sha256": hash_trunk(trunk.tensors),
            "activation_bytes": trunk.activation_bytes,
        }
    )


def _hash_facts(facts: Mapping[str, object]) -> str:
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
