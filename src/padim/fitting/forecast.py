"""How much memory a fit will take, said before it starts."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from padim.errors import MemoryLimitError
from padim.features.device import free_bytes
from padim.fitting import looks
from padim.images.decode import DECODE_BYTES_PER_PX
from padim.memory import format_bytes, machine_bytes, resident_bytes
from padim.method.gaussian import BLOCK_BYTES, STORES
from padim.method.moments import GROUP
from padim.scoring.parity import N_SAMPLES, STEP_PX

if TYPE_CHECKING:
    from padim.fitting.fitter import Fitter

_SAFE_FRACTION = 0.9  # of a machine's memory: other programs need the rest
# Of each image: its thumbnail, once and twice more when they are compared, its small picture, hash,
# path and scores; and without a second look. As measured with 4,000.
_REVIEWED_BYTES, _SEEN_BYTES = 21_000, 2_000
SLACK = 1.12  # what the allocator holds beyond what is asked of it, as measured at most


@dataclass(frozen=True)
class Forecast:
    """What a fit will take."""

    peak_bytes: int  # peak resident memory of the process
    file_bytes: int  # size of the model file
    device_bytes: int = 0  # peak memory of the GPU; none where a CPU computes

    def check(self, max_bytes: int | None) -> None:
        """Refuse work that would not fit.

        Raises:
            MemoryLimitError: The peak exceeds ``max_bytes``, or what the machine or its GPU has.
        """
        needed, advice = format_bytes(self.peak_bytes), "fewer --dims, another --recipe or "
        advice = f"a smaller --size-px or --tile-px, {advice}--backbone."
        if max_bytes is not None and self.peak_bytes > max_bytes:
            raise MemoryLimitError(
                f"This fit needs about {needed} of memory, but may have {format_bytes(max_bytes)}. "
                f"Raise --max-memory, or take {advice}"
            )
        if self.peak_bytes > machine_bytes():
            raise MemoryLimitError(
                f"This fit needs about {needed} of memory, but this machine has "
                f"{format_bytes(machine_bytes())}. Take {advice}"
            )
        if self.device_bytes and self.device_bytes > (free := free_bytes()):
            raise MemoryLimitError(
                f"This fit needs about {format_bytes(self.device_bytes)} of the GPU's memory, but "
                f"{format_bytes(free)} are free. Use --device cpu, or take {advice}"
            )

    @property
    def warning(self) -> str:
        """What to say of work that may not fit; empty where it does."""
        if self.peak_bytes <= _SAFE_FRACTION * machine_bytes():
            return ""
        return (
            f"This fit needs about {format_bytes(self.peak_bytes)} of the "
            f"{format_bytes(machine_bytes())} that this machine has, so it may be slow, or be "
            "ended. Set --max-memory to keep within less."
        )


@dataclass(frozen=True)
class NetworkBytes:
    """Memory that a network takes."""

    image: int  # most feature maps of one image alive at once, as ``activation_bytes`` says
    engine: int  # what its engine takes beside them
    writer: int  # what writing its graph takes, before it runs
    file: int  # its tensors in the model file


def forecast_fit(fitter: "Fitter", largest_px: tuple[int, int], n_images: int | None) -> Forecast:
    """Forecast a fit from the shapes of its network; as for ``Fitter.forecast``."""
    settings, network, encoder = fitter.settings, fitter.network_bytes, fitter.encoder
    tiling, (height, width) = encoder.tiling, encoder.preprocess.size_px
    pyramid, whole = tiling.largest, tiling.pyramid
    n_pixels = height * width
    store_bytes = STORES[settings.store].itemsize
    waiting = 8 * GROUP * pyramid.n_features
    moments = 8 * (pyramid.n_entries + 2 * pyramid.n_features)
    rows = store_bytes * pyramid.n_entries
    sample_bytes = n_pixels * 3 + 4 * (n_pixels // STEP_PX**2)
    file_bytes = store_bytes * whole.n_entries + 4 * whole.n_features
    file_bytes += network.file + settings.keep_samples * N_SAMPLES * sample_bytes
    n_batch = fitter.embedder.n_batch
    running = (n_batch if n_images is None else min(n_batch, n_images)) * network.image
    if fitter.embedder.device.type != "cpu" and (n_images is None or n_images >= 2 * n_batch):
        running *= (
            2  # what is recorded keeps its memory while a smaller batch, the last, is computed
        )
    decode_bytes = fitter.embedder.n_decoders * DECODE_BYTES_PER_PX * largest_px[0] * largest_px[1]
    passing = running + network.engine + waiting + moments + decode_bytes
    factoring = moments + rows + BLOCK_BYTES + network.engine
    saving = rows + (moments if settings.keep_moments else 0)
    work = max(network.writer, passing, factoring, saving)
    # The patterns of the pixels of a few maps, and what is in between.
    finishing = 26 * looks.N_FINISHED * n_pixels
    if settings.calibrate:
        n_looked = looks.GROUP if n_images is None else min(looks.GROUP, n_images)
        # The second factor takes the scatter's memory, unless that is still needed.
        if settings.drop_outliers:
            factoring += 2 * moments + rows
        elif settings.keep_moments:
            factoring += moments
        looking = running + 8 * n_looked * pyramid.n_features
        if len(tiling.tiles) == 1:
            looking += finishing
        work = max(work, factoring + max(0, looking - BLOCK_BYTES))
        work += fitter.n_maps * 4 * n_pixels
    device_bytes = 0
    if fitter.embedder.device.type != "cpu":
        kept = settings.calibrate * fitter.kept_feature_bytes
        if n_images is not None:
            kept = min(kept, 4 * n_images * pyramid.n_features)
        device_bytes = round(SLACK * (work + kept))
        work = rows + decode_bytes + network.engine + fitter.n_maps * 4 * n_pixels
    each = _REVIEWED_BYTES if settings.calibrate else _SEEN_BYTES
    peak_bytes = resident_bytes() + round(SLACK * work) + each * (n_images or 0)
    if len(tiling.tiles) > 1:
        # The pilot's features, their sums and what is in between; or images on their way; or a few
        # maps, and the patterns of their pixels. And the means.
        peak_bytes += max(20 * whole.n_features, finishing) + 4 * whole.n_features
    return Forecast(peak_bytes, file_bytes, device_bytes)
