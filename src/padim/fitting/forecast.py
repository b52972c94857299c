"""How much memory a fit will take, said before it starts."""

from dataclasses import dataclass

from padim.errors import MemoryLimitError
from padim.memory import format_bytes, resident_bytes
from padim.method.moments import GROUP
from padim.method.pyramid import Pyramid
from padim.scoring.parity import STEP_PX

SLACK = 1.12  # what the allocator holds beyond what is asked of it, as measured at most
KEPT_FEATURE_BYTES = 256 << 20  # of features kept for a second look; beyond, they are recomputed


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
                f"{format_bytes(max_bytes)}. Raise --max-memory, or take a smaller --size or "
                "--tile-px, fewer --dims, another --recipe or --backbone."
            )


def forecast_fit(
    image_bytes: int,
    pyramid: Pyramid,
    size_px: tuple[int, int],
    *,
    n_batch: int,
    engine_bytes: int,
    store_bytes: int,
    trunk_bytes: int,
    block_bytes: int,
    whole: Pyramid,
    keep_moments: bool,
    n_samples: int,
    kept_bytes: int | None,
    n_looked: int,
    decode_bytes: int,
) -> Forecast:
    """Forecast a fit from the shapes of its network.

    Args:
        image_bytes: What ``activation_bytes`` says of one image.
        pyramid: The cells that are modelled at a time.
        size_px: (height, width) of an image at network size.
        n_batch: Images in one forward pass.
        engine_bytes: What the engine takes beside the feature maps.
        store_bytes: Bytes of one stored whitening entry.
        trunk_bytes: Bytes of the trunk's tensors in the file, or 0.
        block_bytes: Working memory of the factorisation.
        whole: All cells that are modelled.
        keep_moments: Whether the moments are written as well.
        n_samples: Images that travel with the model.
        kept_bytes: Of features that are kept for a second look at the images; None when there is
            none.
        n_looked: Images of one product of the second look.
        decode_bytes: What the decoder holds at once.
    """
    waiting = 8 * GROUP * pyramid.n_features
    moments = 8 * (pyramid.n_entries + 2 * pyramid.n_features)
    rows = store_bytes * pyramid.n_entries
    sample_bytes = size_px[0] * size_px[1] * 3 + 4 * (size_px[0] * size_px[1] // STEP_PX**2)
    file_bytes = store_bytes * whole.n_entries + 4 * whole.n_features
    file_bytes += trunk_bytes + n_samples * sample_bytes
    passing = n_batch * image_bytes + engine_bytes + waiting + moments + decode_bytes
    factoring = moments + rows + block_bytes + engine_bytes
    saving = rows + (moments if keep_moments else 0)
    work = max(passing, factoring, saving)
    if kept_bytes is not None:
        # Their features in float64 before and after centring.
        looking = 8 * pyramid.n_entries + n_batch * image_bytes + 16 * n_looked * pyramid.n_features
        work = max(work, factoring + looking) + kept_bytes
    return Forecast(resident_bytes() + round(SLACK * work), file_bytes)
