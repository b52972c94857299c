"""How much memory a fit will take, said before it starts."""

from dataclasses import dataclass

from padim.errors import MemoryLimitError
from padim.memory import format_bytes, resident_bytes
from padim.method.gaussian import BLOCK_BYTES
from padim.method.moments import GROUP
from padim.method.tiles import Tiling
from padim.scoring.parity import STEP_PX

SLACK = 1.12  # what the allocator holds beyond what is asked of it, as measured at most
KEPT_FEATURE_BYTES = 256 << 20  # of features kept for a second look; beyond, they are recomputed
N_FINISHED = 4  # leave-one-out maps of whole images at a time, of a fit tile by tile


@dataclass(frozen=True)
class Forecast:
    """What a fit will take.

    Attributes:
        peak_bytes: Peak resident memory of the process.
        file_bytes: Size of the model file.
    """

    peak_bytes: int
    file_bytes: int

    def check(self, max_bytes: int | None) -> None:
        """Refuse work that would not fit.

        Raises:
            MemoryLimitError: The peak exceeds ``max_bytes``.
        """
        if max_bytes is not None and self.peak_bytes > max_bytes:
            raise MemoryLimitError(
                f"This fit needs about {format_bytes(self.peak_bytes)} of memory, but may have "
                f"{format_bytes(max_bytes)}. Raise --max-memory, or take a smaller --size-px or "
                "--tile-px, fewer --dims, another --recipe or --backbone."
            )


@dataclass(frozen=True)
class NetworkBytes:
    """Memory that a network takes.

    Attributes:
        image: Most feature maps of one image alive at once, as ``activation_bytes`` says.
        engine: What its engine takes beside them.
        file: Its tensors in the model file.
    """

    image: int
    engine: int
    file: int


def forecast_fit(
    network: NetworkBytes,
    tiling: Tiling,
    size_px: tuple[int, int],
    *,
    n_batch: int,
    store_bytes: int,
    keep_moments: bool,
    n_samples: int,
    kept_bytes: int | None,
    n_looked: int,
    decode_bytes: int,
) -> Forecast:
    """Forecast a fit from the shapes of its network.

    Args:
        network: What the network takes.
        tiling: The cells that are modelled, and how many at a time.
        size_px: (height, width) of an image at network size.
        n_batch: Images in one forward pass.
        store_bytes: Bytes of one stored whitening entry.
        keep_moments: Whether the moments are written as well.
        n_samples: Images that travel with the model.
        kept_bytes: Of features that are kept for a second look at the images; None when there is
            none.
        n_looked: Images of one product of the second look.
        decode_bytes: What the decoder holds at once.
    """
    pyramid, whole = tiling.largest, tiling.pyramid
    n_pixels = size_px[0] * size_px[1]
    waiting = 8 * GROUP * pyramid.n_features
    moments = 8 * (pyramid.n_entries + 2 * pyramid.n_features)
    rows = store_bytes * pyramid.n_entries
    sample_bytes = n_pixels * 3 + 4 * (n_pixels // STEP_PX**2)
    file_bytes = store_bytes * whole.n_entries + 4 * whole.n_features
    file_bytes += network.file + n_samples * sample_bytes
    running = n_batch * network.image
    passing = running + network.engine + waiting + moments + decode_bytes
    factoring = moments + rows + BLOCK_BYTES + network.engine
    saving = rows + (moments if keep_moments else 0)
    work = max(passing, factoring, saving)
    if kept_bytes is not None:
        # Their features in float64 before and after centring.
        looking = 8 * pyramid.n_entries + running + 16 * n_looked * pyramid.n_features
        work = max(work, factoring + looking) + kept_bytes
    peak_bytes = resident_bytes() + round(SLACK * work)
    if len(tiling.tiles) > 1:
        # The pilot's features, their sums and what is in between; or images on their way; or a few
        # maps, and the patterns of their pixels. And the means.
        peak_bytes += max(20 * whole.n_features, 26 * N_FINISHED * n_pixels) + 4 * whole.n_features
    return Forecast(peak_bytes, file_bytes)
