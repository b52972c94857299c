"""Changes to bytes of which nothing is known, which every format shares."""

import struct
from random import Random

INTERESTING = (0, 1, 2, 127, 128, 255, 256, 32767, 32768, 65535, 2**31 - 1, 2**31, 2**32 - 1)
LARGEST = 2**63 - 1
_WAYS = (
    "cut", "flip", "flip", "flips", "number", "number", "zeros", "ones", "drop", "repeat", "swap",
    "splice", "insert", "append",
)  # fmt: skip


def mutate_bytes(random: Random, content: bytes, other: bytes = b"") -> tuple[bytes, str]:
    """Change bytes in one of many ways.

    Args:
        random: Decides all.
        content: What is changed.
        other: Bytes of another file, to splice with.

    Returns:
        The changed bytes, and what was done.
    """
    if not content:
        return random.randbytes(random.randrange(1, 64)), "made up"
    at = _choose_place(random, len(content))
    n_bytes = min(random.choice((1, 2, 4, 16, 64, 1024)), len(content) - at)
    way = random.choice(_WAYS)
    changed = bytearray(content)
    if way == "cut":
        del changed[at:]
    elif way == "flip":
        changed[at] ^= 1 << random.randrange(8)
    elif way == "flips":
        for _ in range(random.randrange(2, 33)):
            changed[_choose_place(random, len(content))] ^= 1 << random.randrange(8)
    elif way == "number":
        number = struct.pack(random.choice("<>") + "I", random.choice(INTERESTING))
        start = 0 if random.random() < 0.5 else 4 - min(4, random.choice((1, 2)))
        changed[at : at + 4 - start] = number[start:]
    elif way in ("zeros", "ones"):
        changed[at : at + n_bytes] = (b"\0" if way == "zeros" else b"\xff") * n_bytes
    elif way == "drop":
        del changed[at : at + n_bytes]
    elif way == "repeat":
        changed[at:at] = changed[at : at + n_bytes] * random.choice((1, 2, 100))
    elif way == "swap":
        to = _choose_place(random, len(content))
        first, second = sorted((at, to))
        one, two = changed[first : first + n_bytes], changed[second : second + n_bytes]
        changed[first : first + n_bytes], changed[second : second + n_bytes] = two, one
    elif way == "splice":
        changed[at:] = (other or content)[_choose_place(random, len(other or content)) :]
    else:
        new = random.randbytes(n_bytes)
        changed[at:at] = new if way == "insert" else b""
        changed += new if way == "append" else b""
    return bytes(changed), f"bytes {way} at {at}"


def _choose_place(random: Random, n_bytes: int) -> int:
    """A place in a file; every second time in its first 256 bytes, where headers are."""
    return random.randrange(min(n_bytes, 256) if random.random() < 0.5 else n_bytes)
