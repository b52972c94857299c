"""Maps as colours, with Pillow alone: what a machine that only scores can draw."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from padim.errors import UnknownNameError, UsageError
from padim.files import write_whole
from padim.images.decode import IMAGE_SUFFIXES

OUTLINE = (0, 255, 255)
UNSEEN = (128, 128, 128)  # where the network does not look, and the border of where it does
DEFAULT_COLORMAP = "inferno"
# Nine even steps, red, green, blue. Those of matplotlib's inferno grow lighter all the way, which
# colour-blind eyes and print keep. Those of the classic jet do not; published pictures have it.
_STEPS = {
    DEFAULT_COLORMAP: "000004 1f0c48 550f6d 88226a ba3655 e35933 f98c0a f9c932 fcffa4",
    "jet": "000080 0000ff 0080ff 00ffff 80ff80 ffff00 ff8000 ff0000 800000",
}


def colours_of(colormap: str) -> NDArray[np.uint8]:
    """The colours of a map from its lowest to its highest score: RGB, shape ``(256, 3)``."""
    if colormap not in _STEPS:
        raise UnknownNameError("colormap", colormap, tuple(_STEPS))
    channels = np.frombuffer(bytes.fromhex(_STEPS[colormap]), np.uint8).reshape(-1, 3).T
    places = np.linspace(0, 255, channels.shape[1])
    mixed = [np.interp(np.arange(256), places, channel) for channel in channels]
    return np.stack(mixed, axis=1).astype(np.uint8)


COLOURS = colours_of(DEFAULT_COLORMAP)
_ALPHA = [round(level * 0.6) for level in range(256)]
_BILINEAR = Image.Resampling.BILINEAR


def heatmap(
    anomaly_map: NDArray[np.float32],
    low: float,
    high: float,
    colours: NDArray[np.uint8] = COLOURS,
) -> NDArray[np.uint8]:
    """Colour a map from its darkest score to its brightest: RGB ``(H, W, 3)``, grey where NaN."""
    coloured = colours[colour_levels(anomaly_map, low, high)]
    coloured[np.isnan(anomaly_map)] = UNSEEN
    return coloured


def colour_levels(anomaly_map: NDArray[np.float32], low: float, high: float) -> NDArray[np.uint8]:
    """The entry of the colour table for each pixel, 0 at ``low`` and 255 at ``high``; NaN is 0."""
    scaled = (anomaly_map - np.float32(low)) * np.float32(255 / max(high - low, 1e-12))
    levels: NDArray[np.uint8] = np.nan_to_num(scaled, nan=0).clip(0, 255).astype(np.uint8)
    return levels


def outline(mask: NDArray[np.bool_], width_px: int = 1) -> NDArray[np.bool_]:
    """The rim of a mask, on its inside."""
    inner = np.pad(mask, 1, constant_values=False)
    for _ in range(width_px):
        core = inner[1:-1, 1:-1].copy()
        core &= inner[:-2, 1:-1] & inner[2:, 1:-1] & inner[1:-1, :-2] & inner[1:-1, 2:]
        inner[1:-1, 1:-1] = core
    return mask & ~inner[1:-1, 1:-1]


def overlay(
    image: Image.Image,
    anomaly_map: NDArray[np.float32],
    region: NDArray[np.bool_],
    window: tuple[int, int, int, int],
) -> Image.Image:
    """Lay a map over its image and outline a region.

    The colours run from the median of this map to its maximum: they show where this image is most
    anomalous, not how anomalous it is.

    Args:
        image: The source image, of mode ``L`` or ``RGB``.
        anomaly_map: Shape ``(H, W)``, of any size; the image shows through where it is NaN.
        region: What to outline, shape ``(H, W)``.
        window: Top, left, height and width of what the map shows, in source pixels; elsewhere the
            image shows through unchanged.
    """
    top, left, height, width = window
    size, box = (width, height), (left, top, left + width, top + height)
    values = anomaly_map[~np.isnan(anomaly_map)]
    middle = values.size // 2
    low = float(np.partition(values, middle)[middle])  # faster than np.median
    high = float(values.max())
    level = Image.fromarray(colour_levels(anomaly_map, low, high)).resize(size, _BILINEAR)
    alpha = level.point(_ALPHA)
    level.putpalette(COLOURS.tobytes())
    picture = image.convert("RGB")
    if values.size < anomaly_map.size:
        looked = Image.fromarray(~np.isnan(anomaly_map)).resize(size, Image.Resampling.NEAREST)
        picture.paste(UNSEEN, box, Image.fromarray(outline(np.asarray(looked))))
    picture.paste(level.convert("RGB"), box, alpha)
    if region.any():
        mask = Image.fromarray(region.astype(np.uint8) * 255).resize(size, _BILINEAR)
        rim = outline(np.asarray(mask) > 127, max(1, min(image.size) // 256))
        picture.paste(OUTLINE, box, Image.fromarray(rim))
    return picture


def save_picture(picture: Image.Image, path: Path) -> None:
    """Write a picture, whole or not at all; its suffix says how.

    Raises:
        UsageError: The suffix is that of no image.
    """
    suffix = path.suffix.lower()
    if suffix not in IMAGE_SUFFIXES:
        raise UsageError(f"{path} is no image by its name. Try {path.name}.jpg.")
    with write_whole(path, is_one_of_many=True) as partial:
        if suffix in (".jpg", ".jpeg"):
            picture.save(partial, quality=90)
        else:
            picture.save(partial)
