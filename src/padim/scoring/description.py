"""Change what a graph says of itself, in its file and without a library that builds graphs."""

import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from padim.errors import ModelFileError, ModelFileVersionError
from padim.files import written_whole
from padim.scoring.graph import Graph
from padim.scoring.predictor import Outputs

GRAPH_VERSION = 1

_METADATA = 14 << 3 | 2  # metadata_props of ModelProto, in onnx.proto


def write_description(path: Path, text: str) -> None:
    """Replace what a graph says under the key ``padim``, whole or not at all.

    Args:
        path: An ``.onnx`` or ``.xml`` file that ``padim export`` wrote; files beside it stay.
        text: What it is to say.

    Raises:
        ModelFileError: It says nothing so far.
    """
    content = _in_xml(path, text) if path.suffix == ".xml" else _in_onnx(path, text)
    with written_whole(path) as partial:
        partial.write_bytes(content)


def _in_xml(path: Path, text: str) -> bytes:
    tree = ElementTree.parse(path)
    said = tree.getroot().find("rt_info/padim")
    if said is None:
        raise _silent(path)
    said.set("value", text)
    content: bytes = ElementTree.tostring(tree.getroot(), encoding="utf-8", xml_declaration=True)
    return content


def _in_onnx(path: Path, text: str) -> bytes:
    content = path.read_bytes()
    key = _field(1, b"padim")
    kept, n_replaced, start = [], 0, 0
    while start < len(content):
        tag, value = _varint(content, start)
        n_bytes = 0
        if tag & 7 == 2:
            n_bytes, value = _varint(content, value)
        elif tag & 7 == 0:
            _, value = _varint(content, value)
        else:
            raise ModelFileError(f"{path} is no graph that can be read. Copy it again.")
        stop = value + n_bytes
        if tag == _METADATA and content[value:stop].startswith(key):
            n_replaced += 1
            entry = key + _field(2, text.encode())
            kept.append(_field(14, entry))
        else:
            kept.append(content[start:stop])
        start = stop
    if n_replaced != 1:
        raise _silent(path)
    return b"".join(kept)


def _silent(path: Path) -> ModelFileError:
    return ModelFileError(f"{path} is a graph, but no model. Name one that padim export wrote.")


def _field(number: int, content: bytes) -> bytes:
    """A field of protobuf that holds bytes."""
    return _as_varint(number << 3 | 2) + _as_varint(len(content)) + content


def _as_varint(number: int) -> bytes:
    parts = bytearray()
    while number > 127:
        parts.append(number & 127 | 128)
        number >>= 7
    return bytes([*parts, number])


def _varint(content: bytes, start: int) -> tuple[int, int]:
    """The whole number that is written from a place on, and the place behind it."""
    number = shift = 0
    while True:
        byte = content[start]
        start += 1
        number |= (byte & 127) << shift
        if byte < 128:
            return number, start
        shift += 7


def read_description(graph: Graph, path: Path) -> dict[str, Any]:
    """Read what a graph says of itself.

    Args:
        graph: The graph, loaded.
        path: Its file, for messages.

    Raises:
        ModelFileError: It is none that ``padim export`` wrote.
        ModelFileVersionError: A newer release wrote it.
    """
    if graph.runtime.names != Outputs._fields or not graph.runtime.description:
        raise ModelFileError(f"{path} is a graph, but no model. Name one that padim export wrote.")
    description: dict[str, Any] = json.loads(graph.runtime.description)
    if description["graph_version"] > GRAPH_VERSION:
        raise ModelFileVersionError(
            f"{path} has the graph version {description['graph_version']}, but this release reads "
            f"up to {GRAPH_VERSION}. Install the release that wrote it, or a newer one."
        )
    return description
