"""What a folder holds, to be compared: bytes of files, less what no two runs share."""

import csv
import hashlib
import io
import json
import re
from pathlib import Path
from typing import Any

from PIL import Image

Contents = dict[str, str]  # a digest of each file, by its path

_CHANCE = re.compile(r"(_s|_bytes|mtime_ns|n_bytes|images|root)$")  # times, sizes, stamps of files
_LOCK = re.compile(r"(^|/)\.[^/]*lock$")
_NEXT = ".next."
_MOMENTS_NEXT = ".moments.next."
_PAIRS = re.compile(r"(?<!moments)(?<!next)\.(safetensors|xml)$")
_BESIDE = {".safetensors": ".moments.safetensors", ".xml": ".bin"}
# Written anew whenever a category is done, with what is done so far.
_SO_FAR = re.compile(r"/(results\.(json|csv|md)|roc_curve\.png)$")
_READY = re.compile(r"(?<![^/])\.[^/]+\.ready/")  # what the next who opens the file finishes
_TORN = "torn: "  # a digest of what is not whole
_LOG = re.compile(r"\.(jsonl|csv)$")  # which may grow line by line


def read_contents(folder: Path) -> Contents:
    """Digest each file but locks, which are empty and may stay."""
    found: Contents = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_file() and not _LOCK.search(f"/{name}"):
            found[name] = digest(path)
    return found


def digest(path: Path) -> str:
    """What a file holds; of results without what differs from run to run."""
    content = path.read_bytes()
    if path.suffix == ".json":
        try:
            content = json.dumps(_drop_chance(json.loads(content)), sort_keys=True).encode()
        except ValueError:
            return f"{_TORN}{content[-40:]!r}"
    elif path.name == "results.csv":
        rows = list(csv.DictReader(io.StringIO(content.decode())))
        content = json.dumps(_drop_chance(rows)).encode()
    elif path.name == "log.jsonl":  # holds times
        lines = content.decode().splitlines()
        content = b"whole" if all(is_json(line) for line in lines) else content
    elif path.suffix == ".html":
        content = b"whole" if content.rstrip().endswith(b"</html>") else content
    elif path.suffix == ".png":
        try:
            Image.open(path).load()
        except OSError:
            return f"{_TORN}{len(content)} bytes"
    return hashlib.sha256(content).hexdigest()


def is_json(text: str) -> bool:
    """Whether a text is a whole document."""
    try:
        json.loads(text)
    except ValueError:
        return False
    return True


def _drop_chance(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _drop_chance(item) for k, item in value.items() if not _CHANCE.search(k)}
    if isinstance(value, list):
        return [_drop_chance(item) for item in value]
    return value


def find_torn(folder: Path, old: Contents, new: Contents, texts: dict[str, str]) -> str | None:
    """What is neither as before nor as it is to be; hidden files of a killed run are passed over.

    Args:
        folder: Where a run was killed.
        old: What it held before.
        new: What it holds after a run that was not killed.
        texts: Of ``new``, the texts that may be written line by line, and so stop anywhere.
    """
    found = read_contents(folder)
    for name in sorted({*old, *new, *found}):
        if is_hidden(name):
            continue
        if name not in found:
            if name in old and name in new:
                return f"{name} is gone"
        elif found[name].startswith(_TORN):
            return f"{name} is not whole"
        elif name not in texts and not _SO_FAR.search(name):
            # New moments wait under a name of their own until their model is there.
            if found[name] not in (old.get(name), new.get(name.replace(_NEXT, "."))):
                return f"{name} is neither old nor new"
        elif name in texts and not name.endswith("log.jsonl"):  # it holds times
            text = (folder / name).read_text(errors="replace")
            if found[name] != old.get(name) and not _is_beginning(text, texts[name]):
                return f"{name} is no beginning of the new one"
    return _find_unpaired(found, old, new)


def _is_beginning(text: str, whole: str) -> bool:
    """Whether a text is some of the first lines of another."""
    return whole.startswith(text) and (not text or text.endswith("\n"))


def _find_unpaired(found: Contents, old: Contents, new: Contents) -> str | None:
    """Of two files that belong together, one that is old beside a new one."""
    found = found | {_READY.sub("", name): found[name] for name in found if _READY.search(name)}
    for name in found:
        beside = _PAIRS.sub(lambda end: _BESIDE[end[0]], name)
        if beside == name or beside not in found or is_hidden(name):
            continue
        is_new, its = found[name] == new.get(name), {found[beside]}
        if ".moments." in beside:
            its |= {found.get(beside.replace(".moments.", _MOMENTS_NEXT), "")}
        wanted = (new if is_new else old).get(beside)
        if old.get(beside) != new.get(beside) and wanted not in its:
            return f"{beside} is not of {name}, which is {'new' if is_new else 'old'}"
    return None


def settle(contents: Contents) -> Contents:
    """The same with new moments that still wait for their name under that name."""
    return {
        name: contents.get(name.replace(".moments.", _MOMENTS_NEXT), digest)
        for name, digest in contents.items()
        if _MOMENTS_NEXT not in name
    }


def read_logs(folder: Path) -> dict[str, str]:
    """The texts of a folder that are written line by line."""
    return {
        path.relative_to(folder).as_posix(): path.read_text(errors="replace")
        for path in folder.rglob("*")
        if _LOG.search(path.name) and path.name != "results.csv" and not is_hidden(path.name)
    }


def is_hidden(name: str) -> bool:
    """Whether a file or a folder above it is hidden."""
    return any(part.startswith(".") for part in name.split("/"))


def list_differences(found: Contents, wanted: Contents) -> str:
    """What two folders do not have in common."""
    names = [name for name in {**found, **wanted} if found.get(name) != wanted.get(name)]

    def describe(name: str) -> str:
        if name in wanted:
            return f"{name} {'differs' if name in found else 'is missing'}"
        return f"{name} is left"

    return ", ".join(map(describe, sorted(names)[:4]))
