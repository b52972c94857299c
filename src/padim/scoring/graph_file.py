"""The files of a graph: read, held against their seal, and changed, without an engine.

A seal is the sha256 of a file with the seal left out. What is beside the file is held against the
sha256 that the file says of it.
"""

import hashlib
import html
import re
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from padim.errors import (
    MemoryLimitError,
    ModelFileError,
    ModelFileHashError,
    PadimError,
    PathMissingError,
    redact,
)
from padim.files import identify, sha256, write_whole
from padim.places import Place, copy_here, is_far
from padim.scoring.engines import ENGINES, engines_of
from padim.scoring.protobuf import read_fields, write_field

DESCRIPTION = "padim"  # the key of what a graph says of itself
_SEAL = "padim_sha256"
_BESIDE = {".xml": "padim_bin_sha256", ".onnx": "padim_data_sha256"}
# Numbers of fields in onnx.proto
_METADATA = 14  # of ModelProto
_KEY, _VALUE = 1, 2  # of an entry there

Entry = tuple[int, int, bytes]  # from where to where it is in its file, and its value


@dataclass(frozen=True)
class GraphFile:
    """A graph's file that has been read, while it is held against its seal."""

    path: Path
    content: memoryview
    is_sealed: bool
    identity: tuple[tuple[int, ...], ...]  # what the system says of it, and of that beside it
    _beside: Future[NDArray[np.uint8] | None]
    _hashes: tuple[Future[str], ...]  # of it, and of that beside it

    @property
    def beside(self) -> NDArray[np.uint8] | None:
        """What is in the file of its weights, if it has one."""
        return self._beside.result()

    def check(self) -> str:
        """Wait until it is known to be what was written; gives the sha256 of its file.

        Raises:
            ModelFileHashError: It is not what was written.
            ModelFileError: It lacks its weights, or other files are there than were read.
        """
        hashes = [one.result() for one in self._hashes]
        if _identify_parts(self.path) != self.identity:
            there = [sha256(part) for part in graph_parts(self.path)]
            if there != hashes[: len(there)]:
                raise ModelFileError(f"{self.path} has changed while it was loaded. Load it again.")
        return hashes[0]


def read_graph(path: Path, *, with_weights: bool = True) -> GraphFile:
    """Read a graph's file, and what is beside it, and hold both against what they say.

    Raises:
        PathMissingError: There is no such file.
        ModelFileError: It is no graph, or lacks its weights.
        ModelFileHashError: It is not what was written.
    """
    with ThreadPoolExecutor(1) as executor:
        file = begin_reading(path, executor, with_weights=with_weights)
        file.check()
    return file


def begin_reading(
    path: Path, executor: ThreadPoolExecutor, *, with_weights: bool = True
) -> GraphFile:
    """Read a graph's file; what is beside it is read, and both are hashed, in threads.

    Raises:
        PathMissingError: There is no such file.
        ModelFileError: It is no graph.
    """
    if not path.is_file():
        raise PathMissingError(path)
    identity = _identify_parts(path)
    content = np.fromfile(path, np.uint8).data
    seal = _find_one(path, content, _SEAL)
    entry = _find_one(path, content, _BESIDE[path.suffix]) if with_weights else None
    beside: Future[NDArray[np.uint8] | None] = Future()
    if with_weights:
        beside = executor.submit(_read_beside, path, entry, seal is not None)
    else:
        beside.set_result(None)
    hashes = (
        executor.submit(_hash, path, content, seal),
        executor.submit(_hash_beside, path, beside, entry),
    )
    return GraphFile(path, content, seal is not None, identity, beside, hashes)


def _read_beside(path: Path, entry: Entry | None, is_sealed: bool) -> NDArray[np.uint8] | None:
    """What is beside a graph's file, and is its: a seal is one over both."""
    part = part_beside(path)
    if entry is None and path.suffix == ".onnx" and (is_sealed or not part.is_file()):
        return None
    if entry is None and is_sealed:
        raise ModelFileHashError(
            f"{path} is sealed, but does not say what {part.name} is. Export it anew."
        )
    if not part.is_file():
        raise ModelFileError(f"{path} lacks its weights {part.name}. Copy them beside it.")
    return np.fromfile(part, np.uint8)


def _hash(path: Path, content: memoryview, seal: Entry | None) -> str:
    """The sha256 of a graph's file, which must be that of its seal but for the seal."""
    start, stop, said = seal or (len(content), len(content), b"")
    whole = hashlib.sha256(content[:start])
    sealed = whole.copy()
    sealed.update(content[stop:])
    whole.update(content[start:])
    if seal is not None and sealed.hexdigest().encode() != said:
        raise ModelFileHashError(
            f"{path} is not what was written, so it may score otherwise. Copy it again, or export "
            "it anew."
        )
    return whole.hexdigest()


def _hash_beside(path: Path, beside: Future[NDArray[np.uint8] | None], entry: Entry | None) -> str:
    """The sha256 of what is beside a graph's file, which must be what that says of it."""
    weights = beside.result()
    digest = "" if weights is None else hashlib.sha256(weights.data).hexdigest()
    if entry is not None and digest.encode() != entry[2]:
        raise ModelFileHashError(
            f"{part_beside(path)} is not the one that {path.name} was written with. Copy both "
            "again."
        )
    return digest


def part_beside(path: Path) -> Path:
    """Where the weights of a graph are when they are not in its file."""
    name, sign, query = path.name.partition("?") if is_far(path) else (path.name, "", "")
    name = f"{name.removesuffix('.xml')}.bin" if path.suffix == ".xml" else f"{name}.data"
    return path.with_name(name + sign + query)


def graph_parts(path: Path) -> list[Path]:
    """The files of a graph that must travel together: itself, and its weights beside it."""
    beside = part_beside(path)
    return [path, beside] if beside.is_file() else [path]


@contextmanager
def bringing_here(path: Path) -> Iterator[Path]:
    """Give a graph on this machine, with what is beside it; errors name where it came from."""
    if not isinstance(path, Place):
        yield path
        return
    if not path.is_file():
        raise PathMissingError(path)
    here = copy_here(path, part_beside(path))
    try:
        yield here
    except PadimError as error:
        error.args = (redact(str(error).replace(str(here), str(path))),)
        raise


def _identify_parts(path: Path) -> tuple[tuple[int, ...], ...]:
    return tuple(map(identify, graph_parts(path)))


def write_seal(path: Path) -> None:
    """Let a graph that has just been written say what is beside it, and what itself is."""
    path.write_bytes(_with_seal(path, _with_beside(path, path.read_bytes())))


def read_description(path: Path) -> str | None:
    """What a graph says of itself, read without an engine; None where it says nothing."""
    if not path.is_file():
        return None
    entry = _find_one(path, np.fromfile(path, np.uint8).data, DESCRIPTION)
    said = entry[2].decode("utf-8", "replace") if entry else None
    return html.unescape(said) if said and path.suffix == ".xml" else said


def write_description(path: Path, text: str) -> None:
    """Replace what a graph that ``padim export`` wrote says, whole or not at all.

    Files beside it stay. One that says nothing so far is a `ModelFileError`.
    """
    file = read_graph(path, with_weights=False)
    content = bytes(file.content)
    if _find_one(path, content, DESCRIPTION) is None:
        raise no_model(path)
    if not file.is_sealed and _find_one(path, content, _BESIDE[path.suffix]) is None:
        content = _with_beside(path, content)
    content = _with_seal(path, _with_entry(path, content, DESCRIPTION, text))
    with write_whole(path) as partial:
        partial.write_bytes(content)


def no_model(path: Path) -> ModelFileError:
    """What to say of a graph that is no model."""
    return ModelFileError(f"{path} is a graph, but no model. Name one that padim export wrote.")


def unreadable(path: Path, engine: str | None = None) -> ModelFileError:
    """What to say of a file that is no graph, as an engine said or the one of its format would."""
    title = ENGINES[engine or engines_of(path)[0]].title
    return ModelFileError(
        f"{path} is no graph that {title} reads. Copy it again, or export it anew."
    )


def no_image_graph(path: Path) -> ModelFileError:
    """What to say of a graph that takes something else."""
    return ModelFileError(
        f"{path} is a graph, but none that takes images. Name one that padim export wrote."
    )


def unrunnable(path: Path, error: Exception) -> PadimError:
    """What to say of a graph that an engine could read, but not run."""
    reason = str(error).strip().partition("\n")[0][:200]
    if isinstance(error, MemoryError) or "memory" in reason.lower() or "bad_alloc" in reason:
        return MemoryLimitError(f"The memory ran out while {path} was run. Give smaller batches.")
    return ModelFileError(f"{path} cannot be run ({reason}). Copy it again, or export it anew.")


def _with_seal(path: Path, content: bytes) -> bytes:
    """A file's content with a new seal."""
    content = _with_entry(path, content, _SEAL, "0" * 64)
    found = _find_one(path, content, _SEAL)
    assert found is not None
    digest = hashlib.sha256(content[: found[0]] + content[found[1] :])
    return _with_entry(path, content, _SEAL, digest.hexdigest())


def _with_beside(path: Path, content: bytes) -> bytes:
    """A file's content with the sha256 of what is beside it."""
    part = part_beside(path)
    if not part.is_file():
        return content
    return _with_entry(path, content, _BESIDE[path.suffix], sha256(part))


def _with_entry(path: Path, content: bytes, key: str, value: str) -> bytes:
    """A file's content with another value of a key, which is there or not."""
    form, entry = _FORMS[path.suffix], _find_one(path, content, key)
    if entry is None:
        return form.insert(content, key, value)
    return content[: entry[0]] + form.write(key, value) + content[entry[1] :]


def _find_one(path: Path, content: bytes | memoryview, key: str) -> Entry | None:
    """The entry of a key; None where there is none, a `ModelFileError` where there are several."""
    try:
        found = list(_FORMS[path.suffix].find(content, key.encode()))
    except ValueError as error:
        raise unreadable(path) from error
    if len(found) > 1:
        raise unreadable(path)
    return found[0] if found else None


class _Form(Protocol):
    """How entries are written in a format; what ``find`` gives is what ``write`` writes."""

    def find(self, content: bytes | memoryview, key: bytes) -> Iterator[Entry]: ...

    def write(self, key: str, value: str) -> bytes: ...

    def insert(self, content: bytes, key: str, value: str) -> bytes: ...


class _Onnx:
    """Fields of protobuf; an entry is a whole field of metadata."""

    def find(self, content: bytes | memoryview, key: bytes) -> Iterator[Entry]:
        for number, value, start, stop in read_fields(memoryview(content)):
            if number == _METADATA and not isinstance(value, int):
                entry = {
                    part: bytes(said)
                    for part, said, *_ in read_fields(value)
                    if not isinstance(said, int)
                }
                if entry.get(_KEY) == key:
                    yield start, stop, entry.get(_VALUE, b"")

    def write(self, key: str, value: str) -> bytes:
        entry = write_field(_KEY, key.encode()) + write_field(_VALUE, value.encode())
        return write_field(_METADATA, entry)

    def insert(self, content: bytes, key: str, value: str) -> bytes:
        return content + self.write(key, value)


class _Xml:
    """Elements of the last ``rt_info``; an entry is the text of an attribute.

    What OpenVINO keeps there of an ONNX file comes first, under ``framework``.
    """

    def find(self, content: bytes | memoryview, key: bytes) -> Iterator[Entry]:
        text = bytes(content)
        begin = max(0, text.rfind(b"</framework>"))
        for found in re.compile(rb'<%s value="([^"]*)"' % key).finditer(text, begin):
            yield (*found.span(1), found[1])

    def write(self, _key: str, value: str) -> bytes:
        return html.escape(value).encode()

    def insert(self, content: bytes, key: str, value: str) -> bytes:
        end = content.rindex(b"</rt_info>")
        element = b'\t<%s value="%s" />\n\t' % (key.encode(), self.write(key, value))
        return content[:end] + element + content[end:]


_FORMS: dict[str, _Form] = {".onnx": _Onnx(), ".xml": _Xml()}
