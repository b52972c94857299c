"""First looks at shards, added up, and what becomes of them."""

import heapq
from collections.abc import Mapping
from dataclasses import replace
from itertools import chain
from pathlib import Path

import numpy as np
from torch import Tensor

from padim.choices import require_model_place
from padim.errors import DatasetError
from padim.files import lock_file
from padim.fitting import looks, update
from padim.fitting.fitter import sample, solve
from padim.fitting.looks import Begin
from padim.method.gaussian import STORES
from padim.model.padim import network_of
from padim.model.pair import save_pair
from padim.model.shard_file import ShardLook, load_look, save_look
from padim.model.state import ModelState
from padim.scoring.parity import N_SAMPLES


class LookSum:
    """The sum of first looks at shards, in the order of their numbers.

    Attributes:
        number: Of the last shard in it.
    """

    def __init__(self) -> None:
        self.number = 0
        self._total: ShardLook | None = None
        self._first = Path()  # a file of those in it

    def go_on(self, path: Path) -> None:
        """Begin with a sum that was saved."""
        self._total, self._first = load_look(path), path
        self.number = self._total.shard.number

    def add(self, other: ShardLook | None, number: int, path: Path) -> None:
        """Add a look at the next shard, of this file; None where no image could be read.

        Raises:
            PadimError: As ``merge_looks``.
        """
        if other is not None:
            for digest in other.state.image_sha256:  # another might be in its own shard as well
                if not other.shard.has(digest):
                    raise DatasetError(
                        f"{path} has an image with the sha256 {digest}, which is none of shard "
                        f"{other.shard}. Look at the shard again."
                    )
            if self._total is None:
                self._total, self._first = other, path
            else:
                _require_alike(self._first, self._total, path, other)
                self._total = _add(self._total, other)
        self.number = number

    def save(self, path: Path) -> bool:
        """Write it, whole or not at all; not if no image is in it. Whether it was."""
        if self._total is None:
            return False
        shard = replace(self._total.shard, number=self.number)
        save_look(replace(self._total, shard=shard), path)
        return True

    def solve(
        self,
        out: Path,
        *,
        weights: str | Path | None = None,
        begin: Begin = looks.no_progress,
    ) -> ModelState:
        """Make a model of it, as ``merge_looks``; its moments stay beside.

        Raises:
            DatasetError: No image is in it.
        """
        out, total = require_model_place(out), self._total
        if total is None:
            raise DatasetError(looks.NO_IMAGE)
        bare, choices = total.state, total.choices
        trunk: Mapping[str, Tensor] = {}
        if choices.include_backbone:
            trunk = network_of(bare, weights).load().tensors
        advance = begin("solve", bare.pyramid.n_steps)
        store, hashes = STORES[choices.store], bare.image_sha256
        state = solve(bare.encoder, bare.recipe, store, trunk, total.moments, hashes, advance)
        if len(total.sample_pixels):
            embedder = update.build_embedder(state, None if trunk else weights)
            mirrored = np.ascontiguousarray(total.sample_pixels[:, :, ::-1])
            state = replace(state, samples=sample(state, embedder, mirrored))
        state = replace(state, images=bare.images)
        with lock_file(out):
            save_pair(state, total.moments, out)
        return state


def _add(one: ShardLook, other: ShardLook) -> ShardLook:
    moments = one.moments.merge(other.moments)
    facts, more = one.state.images, other.state.images
    state = replace(
        one.state,
        count=moments.count,
        image_sha256=one.state.image_sha256 + other.state.image_sha256,
        images=facts.merge(more) if facts and more else None,
    )
    samples = (zip(look.sample_sha256, look.sample_pixels, strict=True) for look in (one, other))
    first = heapq.nsmallest(N_SAMPLES, chain(*samples), lambda sample: sample[0])
    pixels = np.stack([pixels for _, pixels in first]) if first else one.sample_pixels
    digests = tuple(digest for digest, _ in first)
    return replace(one, state=state, moments=moments, sample_pixels=pixels, sample_sha256=digests)


def _require_alike(first: Path, one: ShardLook, path: Path, other: ShardLook) -> None:
    unlike = [
        name
        for name, is_same in (
            ("recipe", one.state.recipe == other.state.recipe),
            ("choices", one.choices == other.choices),
        )
        if not is_same
    ]
    update.require_alike(
        str(first), one.state.encoder, str(path), other.state.encoder, tuple(unlike)
    )
