"""Changes to images: to PNG by chunks, JPEG by segments, TIFF by tags, others by their headers."""

import io
import struct
import zlib
from collections.abc import Callable, Mapping
from random import Random
from typing import TypeVar

import numpy as np
from PIL import Image

from hostile.mutate_bytes import INTERESTING, mutate_bytes

T = TypeVar("T")

_MOVES = ("drop", "repeat", "swap")  # of parts of a file
_DEPTHS = {"L": np.uint8, "I;16": np.uint16, "I": np.int32, "F": np.float32}


def draw(random: Random) -> bytes:
    """Write a small image in one of many formats, modes and ways."""
    side_px = random.choice((1, 7, 32, 64, 90))
    generator = np.random.default_rng(random.randrange(2**32))
    grey = generator.normal(128, 40, (side_px, side_px, 3)).clip(0, 255).astype(np.uint8)
    image = Image.fromarray(grey)
    name, mode, options = random.choice(_WAYS)
    if mode in ("I;16", "I", "F"):
        image = Image.fromarray(grey[..., 0].astype(_DEPTHS[mode]) * 200)
    else:
        image = image.convert(mode)
    exif = Image.Exif()
    if random.random() < 0.2 and name in ("JPEG", "PNG", "TIFF", "WEBP"):
        exif[0x0112] = random.randrange(10)
        options = {**options, "exif": exif}
    more = [image.copy() for _ in range(random.choice((0, 0, 2)))]
    if more and name in ("TIFF", "GIF", "WEBP", "PNG"):
        options = {**options, "save_all": True, "append_images": more}
    stream = io.BytesIO()
    try:
        image.save(stream, name, **options)
    except RuntimeError:  # libtiff has no such way with such tags
        image.convert("RGB").save(stream, "PNG")
    return stream.getvalue()


_Way = tuple[str, str, Mapping[str, object]]  # a format, a mode, and options of Pillow
_WAYS: tuple[_Way, ...] = (
    *(("PNG", mode, {}) for mode in ("RGB", "L", "LA", "RGBA", "P", "1", "I;16")),
    *(("JPEG", mode, {"quality": 90}) for mode in ("RGB", "L", "CMYK")),
    ("JPEG", "RGB", {"progressive": True}),
    ("JPEG", "RGB", {"restart_marker_blocks": 2}),
    *(
        ("TIFF", mode, {"compression": way})
        for way in (None, "tiff_lzw", "tiff_adobe_deflate", "packbits")
        for mode in ("RGB", "L", "I;16", "RGBA")
    ),
    *(("TIFF", mode, {}) for mode in ("1", "P", "F", "I", "CMYK")),
    ("TIFF", "RGB", {"compression": "jpeg"}),
    ("TIFF", "1", {"compression": "group4"}),
    *(("WEBP", "RGB", {"lossless": way}) for way in (True, False)),
    ("GIF", "P", {}),
    *(("BMP", mode, {}) for mode in ("RGB", "L", "1", "RGBA")),
    *(("PPM", mode, {}) for mode in ("RGB", "L", "1", "I;16")),
    *(("JPEG2000", mode, {}) for mode in ("RGB", "L", "LA", "I;16")),
)


def mutate_image(random: Random, content: bytes, other: bytes) -> tuple[bytes, str]:
    """Change an image by what its format is made of, or as bytes."""
    for start, mutate in _FORMATS.items():
        if content.startswith(start) and random.random() < 0.65:
            try:
                return mutate(random, content)
            except (struct.error, IndexError, ValueError, OverflowError):
                break  # drawn beyond the end of a small file
    return mutate_bytes(random, content, other)


def _move(random: Random, parts: list[T], i: int, way: str) -> None:
    """Drop a part of a file, repeat it, or swap it with another."""
    if way == "drop":
        del parts[i]
    elif way == "repeat":
        parts[i:i] = [parts[i]] * random.choice((1, 2, 1000))
    else:
        to = random.randrange(len(parts))
        parts[i], parts[to] = parts[to], parts[i]


def _mutate_png(random: Random, content: bytes) -> tuple[bytes, str]:
    chunks, at = [], 8
    while at < len(content):
        n_bytes, kind = struct.unpack(">I4s", content[at : at + 8])
        chunks.append((kind, content[at + 8 : at + 8 + n_bytes]))
        at += 12 + n_bytes
    i = random.randrange(len(chunks))
    kind, data = chunks[i]
    way = random.choice(
        ("header", "header", "data", "drop", "repeat", "swap", "bomb", "text", "kind")
    )
    if way == "header":
        fields = list(struct.unpack(">IIBBBBB", chunks[0][1]))
        at = random.randrange(7)
        fields[at] = random.choice((*INTERESTING, 3, 4, 6, 16)) & (2**32 - 1 if at < 2 else 255)
        chunks[0] = (b"IHDR", struct.pack(">IIBBBBB", *fields))
    elif way == "data":
        chunks[i] = (kind, mutate_bytes(random, data)[0])
    elif way in _MOVES:
        _move(random, chunks, i, way)
    elif way == "bomb":
        kinds = [kind for kind, _ in chunks]
        if b"IDAT" in kinds:
            chunks[kinds.index(b"IDAT")] = (b"IDAT", zlib.compress(bytes(50_000_000), 1))
    elif way == "text":
        text = zlib.compress(b"x" * random.choice((10, 2_000_000, 100_000_000)), 1)
        new = random.choice(((b"tEXt", b"a\0" + b"x" * 2_000_000), (b"zTXt", b"a\0\0" + text)))
        chunks.insert(1, random.choice((new, (b"iCCP", b"a\0\0" + text))))
    else:
        new_kind = random.choice(
            (b"IDAT", b"PLTE", b"tRNS", b"acTL", b"fcTL", b"eXIf", b"IEND", b"gAMA")
        )
        chunks.insert(i, (new_kind, random.randbytes(random.choice((0, 1, 4, 26)))))
    is_right = random.random() < 0.85
    parts = [content[:8]]
    for kind, data in chunks:
        crc = zlib.crc32(kind + data) if is_right else random.randrange(2**32)
        parts.append(struct.pack(">I", len(data)) + kind + data + struct.pack(">I", crc))
    return b"".join(parts), f"PNG {way}"


def _mutate_jpeg(random: Random, content: bytes) -> tuple[bytes, str]:
    segments, at = [], 2
    while content[at + 1] != 0xDA:
        n_bytes = struct.unpack(">H", content[at + 2 : at + 4])[0]
        segments.append((content[at + 1], content[at + 4 : at + 2 + n_bytes]))
        at += 2 + n_bytes
    scans = content[at:-2]
    i = random.randrange(len(segments))
    marker, data = segments[i]
    way = random.choice(
        ("size", "data", "drop", "repeat", "swap", "marker", "scans", "restart", "many")
    )
    if way == "size":
        (frame,) = [n for n, (kind, _) in enumerate(segments) if kind in (0xC0, 0xC1, 0xC2)]
        kind, data = segments[frame]
        new = bytearray(data)
        at = random.randrange(len(data))
        new[at] = random.choice((0, 1, 2, 3, 4, 8, 12, 0x11, 0x22, 0x41, 127, 255))
        if random.random() < 0.4:
            new[1:5] = struct.pack(">HH", *random.choices((0, 1, 9000, 65535, 65500), k=2))
        segments[frame] = (kind, bytes(new))
    elif way == "data":
        segments[i] = (marker, mutate_bytes(random, data)[0][:65533])
    elif way in _MOVES:
        _move(random, segments, i, way)
    elif way == "marker":
        segments[i] = (
            random.choice((0xC0, 0xC1, 0xC2, 0xC9, 0xCA, 0xDB, 0xDD, 0xE1, 0xEE, 0xFE)),
            data,
        )
    elif way == "scans":
        scans = mutate_bytes(random, scans)[0]
    elif way == "restart":
        segments.insert(i, (0xDD, struct.pack(">H", random.choice((0, 1, 2, 65535)))))
    else:
        scans = scans * random.choice((2, 50, 1000))
    parts = [b"\xff\xd8"]
    for marker, data in segments:
        parts.append(struct.pack(">BBH", 0xFF, marker, len(data) + 2) + data)
    return b"".join(parts) + scans + b"\xff\xd9", f"JPEG {way}"


_TAGS = (
    254, 256, 257, 258, 259, 262, 266, 273, 274, 277, 278, 279, 282, 284, 296, 317, 320, 322, 323,
    324, 325, 330, 338, 339, 347, 529, 530, 532, 34665, 33432,
)  # fmt: skip


def _mutate_tiff(random: Random, content: bytes) -> tuple[bytes, str]:
    changed = bytearray(content)
    end = "<" if content[:2] == b"II" else ">"
    (start,) = struct.unpack_from(f"{end}I", content, 4)
    (n_tags,) = struct.unpack_from(f"{end}H", content, start)
    entries = [
        list(struct.unpack_from(f"{end}HHII", content, start + 2 + 12 * n)) for n in range(n_tags)
    ]
    i = random.randrange(n_tags)
    way = random.choice(
        ("value", "value", "value", "tag", "type", "count", "next", "swap", "n", "order")
    )
    if way == "value":
        small = (0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 16, 32, 64, 32773, 34712)
        entries[i][3] = random.choice((*INTERESTING, *small, len(content), start))
    elif way == "tag":
        entries[i][0] = random.choice(_TAGS)
    elif way == "type":
        entries[i][1] = random.choice((0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 12, 13, 16, 65535))
    elif way == "count":
        entries[i][2] = random.choice((*INTERESTING, 3, 4))
    elif way == "swap":
        to = random.randrange(n_tags)
        entries[i][3], entries[to][3] = entries[to][3], entries[i][3]
    elif way == "order":
        random.shuffle(entries)
    elif way == "n":
        struct.pack_into(f"{end}H", changed, start, random.choice((0, 1, n_tags + 1, 65535)))
    else:
        struct.pack_into(
            f"{end}I", changed, start + 2 + 12 * n_tags, random.choice((start, 1, 2**31))
        )
    for n, entry in enumerate(entries):
        struct.pack_into(
            f"{end}HHII", changed, start + 2 + 12 * n, *(v & (2**32 - 1) for v in entry)
        )
    return bytes(changed), f"TIFF tag {entries[i][0]} {way}"


def _mutate_riff(random: Random, content: bytes) -> tuple[bytes, str]:
    changed = bytearray(content)
    at = random.choice((4, 16, 20, 21, 24, 26, 27, 28, 30))
    changed[at : at + 4] = struct.pack("<I", random.choice((*INTERESTING, random.randrange(2**32))))
    return bytes(changed), f"WebP number at {at}"


def _mutate_head(random: Random, content: bytes) -> tuple[bytes, str]:
    """Change a number of BMP's or GIF's header."""
    changed = bytearray(content)
    at = random.randrange(2, 54)
    n_bytes = random.choice((1, 2, 4))
    number = random.choice((*INTERESTING, 4, 24, 32)) % 256**n_bytes
    changed[at : at + n_bytes] = number.to_bytes(n_bytes, "little")
    return bytes(changed), f"{content[:2].decode()} number at {at}"


def _mutate_ppm(random: Random, content: bytes) -> tuple[bytes, str]:
    words = content.split(maxsplit=4 if content[1:2] != b"4" else 3)
    i = random.randrange(len(words) - 1)
    odd = (
        b"0",
        b"-1",
        b"1",
        b"65535",
        b"65536",
        b"99999999",
        b"9" * 5000,
        b"1e3",
        b"#",
        b"P3",
        b"Pf",
    )
    words[i] = random.choice(odd)
    return b"\n".join(words), f"PPM word {i}"


_FORMATS: dict[bytes, Callable[[Random, bytes], tuple[bytes, str]]] = {
    b"\x89PNG": _mutate_png,
    b"\xff\xd8": _mutate_jpeg,
    b"II*\0": _mutate_tiff,
    b"MM\0*": _mutate_tiff,
    b"RIFF": _mutate_riff,
    b"BM": _mutate_head,
    b"GIF": _mutate_head,
    b"P": _mutate_ppm,
}
