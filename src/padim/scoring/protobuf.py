"""Protobuf as far as ONNX files need it: the fields there are, what they hold, and new ones."""

from collections.abc import Iterator

# Its number, what it holds (a whole number, or bytes), and where in the content it begins and ends
Field = tuple[int, int | memoryview, int, int]


def read_fields(content: memoryview) -> Iterator[Field]:
    """The fields of a message, in order.

    Raises:
        ValueError: It is none, or is cut short.
    """
    place, n_content = 0, len(content)
    while place < n_content:
        start = place
        tag, place = _read_varint(content, place)
        kind = tag & 7
        if kind == 0:
            number, place = _read_varint(content, place)
            yield tag >> 3, number, start, place
            continue
        if kind == 2:
            n_bytes, place = _read_varint(content, place)
        elif kind in (1, 5):
            n_bytes = 8 if kind == 1 else 4
        else:
            raise ValueError("a field is of no known kind")
        begin, place = place, place + n_bytes
        if place > n_content:
            raise ValueError("a field ends nowhere")
        yield tag >> 3, content[begin:place], start, place


def read_packed(content: memoryview) -> Iterator[int]:
    """The whole numbers that a field holds in a row; a ``ValueError`` as of ``read_fields``."""
    place = 0
    while place < len(content):
        number, place = _read_varint(content, place)
        yield number


def _read_varint(content: memoryview, start: int) -> tuple[int, int]:
    """The whole number that is written from a place on, and the place behind it."""
    number = content[start] if start < len(content) else 128
    if number < 128:  # most are
        return number, start + 1
    number = 0
    for shift, byte in enumerate(content[start : start + 10]):
        number |= (byte & 127) << 7 * shift
        if byte < 128:
            return number, start + shift + 1
    raise ValueError("a number ends nowhere")


def write_field(number: int, content: bytes) -> bytes:
    """A field that holds bytes."""
    return _write_varint(number << 3 | 2) + _write_varint(len(content)) + content


def _write_varint(number: int) -> bytes:
    parts = bytearray()
    while number > 127:
        parts.append(number & 127 | 128)
        number >>= 7
    return bytes([*parts, number])
