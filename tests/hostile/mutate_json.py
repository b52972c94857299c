"""Changes to JSON: to its values, its shape, and its text."""

import copy
import json
from random import Random
from typing import Any

from hostile.mutate_bytes import mutate_bytes

Place = tuple[str | int, ...]

_DEEP = 100_000
_ODD: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 2, 0.5, -0.0, 1e-300, 1e300, 7, 2**31, 2**32, 2**53, 2**63,
    2**64, 10**30, -(2**63), 30_000, 10**6, 10**9,
    float("nan"), float("inf"), float("-inf"),
    "", "x", "0", "nan", "../../../etc/passwd", "/dev/zero", "/dev/stdin", "a\0b", "\ud800",
    "x" * 300, "\x1b[31mred", "=1+1", "<script>", [], {}, [0], [None], [[]], [{}], {"": 0},
    [1, 2, 3, 4], [float("nan")] * 3, ["a", "b"],
)  # fmt: skip


def list_places(value: Any, place: Place = ()) -> list[Place]:
    """All places in a document, itself first."""
    found = [place]
    if isinstance(value, dict):
        for key, item in value.items():
            found += list_places(item, (*place, key))
    elif isinstance(value, list):
        # Of a long list the first items and one far in stand for the others.
        for i in {*range(min(len(value), 4)), len(value) // 2, len(value) - 1} if value else ():
            found += list_places(value[i], (*place, i))
    return found


def mutate_value(random: Random, document: Any) -> tuple[Any, str]:
    """Change a document in one or a few places; what is given stays as it is."""
    changed = copy.deepcopy(document)
    done = []
    for _ in range(1 if random.random() < 0.8 else random.randrange(2, 5)):
        changed, what = _mutate_once(random, changed)
        done.append(what)
    return changed, ", ".join(done)


def mutate_json(random: Random, document: Any) -> tuple[bytes, str]:
    """Change a document, or the text that it is written as."""
    if random.random() < 0.75:
        changed, what = mutate_value(random, document)
        return json.dumps(changed).encode("utf-8", "surrogatepass"), what
    text = json.dumps(document)
    way = random.choice(
        ("deep", "deep value", "twice", "number", "empty", "bom", "utf-16", "bytes")
    )
    if way == "deep":
        return (random.choice("[{") * _DEEP).encode(), way
    if way in ("deep value", "number"):
        numbers = ("1" * 5000, "1e999", "-1e999", "NaN", "1" * 200_000, "0x10", "01", "1.", "-")
        deep = random.choice(("[" * _DEEP + "]" * _DEEP, '{"a":' * 3000 + "0" + "}" * 3000))
        new = deep if way == "deep value" else random.choice(numbers)
        marked, where = _put_at_random(random, document, "\x00mark")
        return json.dumps(marked).replace(json.dumps("\x00mark"), new, 1).encode(), f"{way} {where}"
    if way == "twice" and isinstance(document, dict) and document:
        key = random.choice(list(document))
        other = json.dumps(random.choice(_ODD))
        return f"{text[:-1]}, {json.dumps(key)}: {other}}}".encode(
            "utf-8", "replace"
        ), f"twice {key}"
    if way == "bom":
        return text.encode("utf-8-sig"), way
    if way == "utf-16":
        return text.encode("utf-16"), way
    if way == "empty":
        return random.choice((b"", b" ", b"null", b"0", b'""', b"[]", b"{}")), way
    return mutate_bytes(random, text.encode())


def _mutate_once(random: Random, document: Any) -> tuple[Any, str]:
    places = list_places(document)
    place = random.choice(places[1:] or places)
    name = "/".join(map(str, place))
    if not place:
        return random.choice(_ODD), "all of it"
    parent = _get(document, place[:-1])
    key: Any = place[-1]
    value = parent[key]
    way = random.choice(("odd", "odd", "odd", "drop", "rename", "swap", "grow", "near", "near"))
    if way == "drop":
        del parent[key]
    elif way == "rename" and isinstance(parent, dict):
        parent[random.choice(("", "x", f"{key} ", str(key).upper()))] = parent.pop(key)
    elif way == "swap":
        other = random.choice(places[1:])
        if len(other) == len(place) and other != place:
            mine, its = _get(document, place), _get(document, other)
            _set(document, place, its)
            _set(document, other, mine)
        else:
            parent[key] = copy.deepcopy(_get(document, other))
    elif (way == "grow" and isinstance(value, list)) or (way == "grow" and isinstance(value, str)):
        parent[key] = value * random.choice((0, 2, 1000))
    elif way == "near" and isinstance(value, int | float):
        parent[key] = random.choice(
            (value + 1, value - 1, -value, value * 2, value * 1000, value / 2)
        )
    elif way == "near" and isinstance(value, str):
        parent[key] = random.choice(
            (value[1:], f"{value}x", value.upper(), value.replace("/", "\\"))
        )
    else:
        parent[key] = random.choice(_ODD)
        way = f"{parent[key]!r:.20}"
    return document, f"{name} {way}"


def _put_at_random(random: Random, document: Any, value: Any) -> tuple[Any, str]:
    changed = copy.deepcopy(document)
    places = list_places(changed)
    place = random.choice(places[1:] or places)
    return (_set(changed, place, value) if place else value), "/".join(map(str, place))


def _get(document: Any, place: Place) -> Any:
    for key in place:
        document = document[key]
    return document


def _set(document: Any, place: Place, value: Any) -> Any:
    _get(document, place[:-1])[place[-1]] = value
    return document
