"""ROC curves and pictures of where the defects are."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from io import BytesIO
from pathlib import Path

import numpy as np
from cycler import cycler
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from padim.datasets import Sample
from padim.evaluation.category import Evaluation
from padim.files import write_whole
from padim.images.ahead import WRITE_BEHIND, WRITE_THREADS, map_ahead
from padim.images.decode import read_image
from padim.images.heatmap import DEFAULT_COLORMAP, OUTLINE, UNSEEN, colours_of, heatmap, outline
from padim.images.preprocess import Preprocess

Curve = tuple[Sequence[float], Sequence[float], float]  # false and true positive rates, AUROC

_DPI = 100
_PANEL_PX = 256
_SCALE_PX = 4_000_000  # of all maps, that a colour scale looks at
# Colours that colour-blind eyes tell apart (Okabe and Ito 2008, without their yellow); what has
# more lines than colours goes on with other strokes.
_LINE_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
_STROKES = ("-", "--", ":")
_TITLES = ("image", "ground truth", "anomaly map", "predicted mask", "outline")


def draw_roc(image_curves: Mapping[str, Curve], pixel_curves: Mapping[str, Curve]) -> Figure:
    """Draw the ROC curves of images and of pixels, one a category that has one, side by side."""
    figure = Figure(figsize=(15, 7), dpi=_DPI)
    panels = figure.subplots(1, 2)
    figure.subplots_adjust(left=0.05, right=0.985, top=0.95, bottom=0.08, wspace=0.12)
    for axes, kind, curves in zip(
        panels, ("Image", "Pixel"), (image_curves, pixel_curves), strict=True
    ):
        axes.plot([0, 1], [0, 1], color="0.8", linewidth=1)
        axes.set_prop_cycle(cycler(linestyle=_STROKES) * cycler(color=_LINE_COLOURS))
        for name, (fpr, tpr, auroc) in curves.items():
            axes.plot(fpr, tpr, label=f"{name}: {auroc:.3f}")
        if curves:
            mean = sum(auroc for _, _, auroc in curves.values()) / len(curves)
            axes.legend(loc="lower right", fontsize="small")
            axes.set_title(f"{kind} AUROC, mean {mean:.3f}")
        else:
            axes.set_title(f"{kind} AUROC: no category has both classes")
        axes.set_xlabel("false positive rate")
        axes.set_ylabel("true positive rate")
        axes.set_xlim(-0.01, 1.01)
        axes.set_ylim(-0.01, 1.01)
        axes.set_aspect("equal")
    return figure


def pictures(
    evaluation: Evaluation, preprocess: Preprocess, colormap: str = DEFAULT_COLORMAP
) -> Iterator[tuple[Sample, Image.Image]]:
    """Draw each test image of a category: image, truth, map, predicted mask and outline."""
    if not evaluation.samples:
        return
    threshold, note = mask_threshold(evaluation)
    (low, high), colours = map_range(evaluation), colours_of(colormap)
    frame, boxes = _draw_frame(low, high, note, colours)
    for sample, score, anomaly_map in zip(
        evaluation.samples, evaluation.image_score, evaluation.anomaly_map, strict=True
    ):
        image = Image.fromarray(read_image(sample.path, preprocess.reading))
        shown_px = _fit_panel((image.height, image.width))
        shown = np.asarray(image.resize(shown_px[::-1], Image.Resampling.BILINEAR))
        on_panel = preprocess.to_source(anomaly_map.astype(np.float32), shown_px)
        unseen = np.isnan(on_panel)
        least = np.inf if threshold is None else threshold
        predicted = np.where(unseen, -np.inf, on_panel) > least
        outlined = shown.copy()
        outlined[outline(predicted, 2)] = OUTLINE
        panels = (
            shown,
            _draw_truth(sample, shown_px),
            heatmap(on_panel, low, high, colours),
            _grey(predicted, unseen),
            outlined,
        )
        title = f"{evaluation.category}   {sample.defect}   {sample.path.name}   score {score:.2f}"
        yield sample, _fill(frame.copy(), boxes, title, panels)


def _fill(
    picture: Image.Image,
    boxes: Sequence[tuple[int, int, int, int]],
    title: str,
    panels: Sequence[NDArray[np.uint8] | None],
) -> Image.Image:
    """Put panels, each no larger than its box, into the frame of a picture."""
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default(15)
    draw.text((12, 8), title, fill="black", font=font)
    for panel, (left, top, width, height) in zip(panels, boxes, strict=True):
        if panel is None:
            middle = (left + width / 2, top + height / 2)
            draw.text(middle, "no mask", fill="gray", font=font, anchor="mm")
            continue
        rows, columns = panel.shape[:2]
        place = (left + (width - columns) // 2, top + (height - rows) // 2)
        picture.paste(Image.fromarray(panel), place)
    return picture


def _draw_truth(sample: Sample, shown_px: tuple[int, int]) -> NDArray[np.uint8] | None:
    """The mask of an image at the size of a panel; None when it is not known."""
    truth = sample.read_mask()
    if truth is None:
        return None if sample.is_anomalous else _grey(np.zeros(shown_px, np.bool_))
    grey = Image.fromarray(_grey(truth))
    return np.asarray(grey.resize(shown_px[::-1], Image.Resampling.NEAREST))


def save_pictures(named: Iterable[tuple[Path, Image.Image]]) -> Iterator[Path]:
    """Write pictures as PNG, several at a time, each whole or not at all; yield their files."""

    def save(one: tuple[Path, Image.Image]) -> Path:
        path, picture = one
        with write_whole(path, is_one_of_many=True) as partial:
            picture.save(partial, compress_level=1)
        return path

    return map_ahead(save, named, WRITE_THREADS, WRITE_BEHIND)


def mask_threshold(evaluation: Evaluation) -> tuple[float | None, str]:
    """Above which score a pixel is predicted defective, and the words that say whence that is.

    The model's own pixel threshold; of a model that has none, the best F1 on the test set itself,
    of pixels where there are masks, else of images.
    """
    if evaluation.decision is not None:
        own = evaluation.decision.pixel_threshold
        return own, f"pixel threshold of the model,\nset by good images alone: {own:.2f}"
    by_kind = {
        "pixel": float(evaluation.pixel_metrics.f1_threshold()),
        "image": evaluation.image_metrics.f1_threshold(),
    }
    for kind, threshold in by_kind.items():
        if not np.isnan(threshold):
            words = f"oracle threshold: uses test labels\n({kind} F1-max at {threshold:.2f})"
            return float(np.nextafter(np.float32(threshold), np.float32(-np.inf))), words
    return None, "no threshold: one class only"


def map_range(evaluation: Evaluation) -> tuple[float, float]:
    """Scores of the darkest and the brightest colour, the same for all images of a category."""
    every = max(4, math.ceil(math.sqrt(evaluation.anomaly_map.size / _SCALE_PX)))
    thinned = evaluation.anomaly_map[:, ::every, ::every].astype(np.float32)
    normal = ~evaluation.is_anomalous
    usual = thinned[normal] if normal.any() else thinned
    return float(np.nanmedian(usual)), float(np.nanquantile(thinned, 0.999))


def _fit_panel(source_px: tuple[int, int]) -> tuple[int, int]:
    """(height, width) of an image scaled to fill a panel."""
    scale = _PANEL_PX / max(source_px)
    return max(1, round(source_px[0] * scale)), max(1, round(source_px[1] * scale))


def encode_png(figure: Figure) -> bytes:
    """A figure as the bytes of a PNG file."""
    buffer = BytesIO()
    figure.savefig(buffer, format="png", dpi=_DPI, metadata={"Software": None})
    return buffer.getvalue()


def _draw_frame(
    low: float, high: float, note: str, colours: NDArray[np.uint8]
) -> tuple[Image.Image, list[tuple[int, int, int, int]]]:
    gap, left, top, bottom, bar = 16, 12, 58, 46, 64
    width = left + 5 * (_PANEL_PX + gap) + bar
    height = top + _PANEL_PX + bottom
    figure = Figure(figsize=(width / _DPI, height / _DPI), dpi=_DPI)
    boxes = []
    x = left
    for title in _TITLES:
        middle = (x + _PANEL_PX / 2) / width
        figure.text(middle, 1 - (top - 8) / height, title, fontsize=10, ha="center")
        boxes.append((x, top, _PANEL_PX, _PANEL_PX))
        if title == "anomaly map":
            scale = figure.add_axes(
                ((x + _PANEL_PX + 8) / width, bottom / height, 12 / width, _PANEL_PX / height)
            )
            ends = (0, 1, low, high if high > low else low + 1)
            scale.imshow(colours[:, None], extent=ends, aspect="auto", origin="lower")
            scale.tick_params(left=False, labelleft=False, right=True, labelright=True, labelsize=8)
            scale.set_xticks(())
            x += bar
        if title == "predicted mask":
            figure.text(
                (x + _PANEL_PX + gap / 2) / width,
                6 / height,
                note,
                fontsize=8,
                ha="center",
                va="bottom",
            )
        x += _PANEL_PX + gap
    return Image.open(BytesIO(encode_png(figure))).convert("RGB"), boxes


def _grey(mask: NDArray[np.bool_], unseen: NDArray[np.bool_] | None = None) -> NDArray[np.uint8]:
    grey = np.repeat(mask.astype(np.uint8)[..., None] * 255, 3, axis=2)
    if unseen is not None:
        grey[unseen] = UNSEEN
    return grey
