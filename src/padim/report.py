"""A benchmark as one HTML file that needs nothing else: numbers, curves, every image with its map.

Nothing in it is fetched: pictures are data, and a content security policy forbids the rest. Names
of files and folders are untrusted; the template escapes them.
"""

import base64
import hashlib
import io
import json
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from numpy.typing import NDArray
from PIL import Image

from padim.datasets import Sample
from padim.engines import n_cores
from padim.errors import DatasetError
from padim.evaluation import shown
from padim.files import write_text
from padim.heatmap import COLOURS
from padim.images import decode
from padim.preprocess import Preprocess
from padim.run_folder import GROUPS, METRICS, Record, read_run

THUMBNAIL_PX = 256
_FULL_OUTLINE_PX = 512  # finer outlines only cost space
_N_BINS = 32
_PRO_LIMIT = 0.3  # to which AUPRO is commonly reported (Bergmann et al. 2021)
_FEW_COLUMNS = 4
_QUALITY = {True: 90, False: 70}  # of WebP, at source size or not
_TITLES = {
    "image_auroc": "Image AUROC",
    "pixel_auroc": "Pixel AUROC",
    "image_f1_max": "Image F1-max (oracle)",
    "pixel_f1_max": "Pixel F1-max (oracle)",
    "image_average_precision": "Image average precision",
    "image_recall_at_0": "Image recall, no false alarm",
    "image_recall_at_1": "Image recall, one false alarm",
    "pixel_average_precision": "Pixel average precision",
    "aupro_30": "AUPRO, to FPR 0.3",
    "aupro_05": "AUPRO, to FPR 0.05",
    "aupimo": "AUPIMO",
    "spro_05": "AUC of sPRO, to FPR 0.05",
}
_GROUP_TITLES = {"texture": "All textures", "object": "All objects", "all": "All categories"}
_BY_DEFECT = ("image_auroc", "image_average_precision", "pixel_auroc", "aupro_30")
_VERDICTS = {
    ("anomalous", "normal"): "missed",
    ("normal", "anomalous"): "false alarm",
    ("anomalous", "anomalous"): "found",
    ("normal", "normal"): "passed",
}
_DETAILS = (
    "category",
    "name",
    "defect",
    "label",
    "verdict",
    "score",
    "p",
    "levels",
    "box",
    "outline",
    "outline_px",
    "source_px",
)
_WRONG = ("missed", "false alarm")
_X0, _X1, _Y0, _Y1 = 40, 308, 12, 200  # edges of a chart's plot

Cell = tuple[str, str]  # a number and its interval, as text


@dataclass(frozen=True)
class Report:
    """What was written.

    Attributes:
        path: The file.
        n_images: How many images it shows.
        n_bytes: Its size.
    """

    path: Path
    n_images: int
    n_bytes: int


def write_report(
    run: Path,
    out: Path | None = None,
    *,
    full_size: bool = False,
    data: Path | None = None,
    began: Callable[[int], Callable[[int], None]] = lambda n_images: lambda n_done: None,
) -> Report:
    """Write the report of a benchmark; the same folder and images give the same bytes.

    Args:
        run: Folder that ``padim benchmark`` wrote.
        out: The file; ``report.html`` in that folder when None.
        full_size: Whether images are kept at their size instead of as thumbnails.
        data: Where the dataset is now; where it was when None.
        began: Told how many images there are; what it returns is told of each that is done.

    Raises:
        PathMissingError: There is no such folder.
        DatasetError: It is no folder of a benchmark, it lacks the maps, or images are missing.
        ImageReadError: An image or a mask cannot be read.
    """
    document, by_category = read_run(run)
    parts = [_Part.of(run, seeds[0], data) for seeds in by_category.values()]
    for part in parts:
        part.require_files()
    n_images = sum(len(part.images) for part in parts)
    advance = began(n_images)
    cards = [card for part in parts for card in part.cards(full_size, advance)]
    cards.sort(key=lambda card: card["order"])
    text = _page(document, parts, cards)
    path = run / "report.html" if out is None else out
    write_text(path, text)
    return Report(path, n_images, len(text.encode()))


@dataclass(frozen=True)
class _Part:
    """A category of the report.

    Attributes:
        record: Of its first seed.
        root: Where its images are.
        previews: Their maps, shape ``(N, h, w)``, NaN where the model does not look.
        threshold: Between the highest score that was called normal and the lowest that was not;
            None when nothing was called anything.
        preprocess: Which part of an image a map shows.
    """

    record: Record
    root: Path
    previews: NDArray[np.float32]
    threshold: float | None
    preprocess: Preprocess

    @classmethod
    def of(cls, run: Path, record: Record, data: Path | None) -> "_Part":
        images = record.data["images"]
        path = run / "previews" / f"{record.category}.npy"
        try:
            previews = np.load(path, allow_pickle=False).astype(np.float32)
        except (OSError, ValueError) as error:
            raise DatasetError(
                f"{path} cannot be read, but holds the maps. Run padim benchmark again."
            ) from error
        if len(previews) != len(images):
            raise DatasetError(
                f"{path} holds {len(previews)} maps, but needs {len(images)}. Run padim benchmark "
                "again."
            )
        settings = record.data["fingerprint"]["settings"]
        preprocess = Preprocess(
            size_px=tuple(settings["size_px"]),
            crop_fraction=settings["crop_fraction"],
            resample=settings["resample"],
            mean=(0, 0, 0),
            std=(1, 1, 1),
        )
        root = _root(record, data)
        return cls(record, root, previews, _threshold(images), preprocess)

    @property
    def name(self) -> str:
        return self.record.category

    @property
    def images(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.record.data["images"]
        return found

    def require_files(self) -> None:
        """Make sure that everything is there before any work.

        Raises:
            DatasetError: A file is missing.
        """
        for image, masks in zip(self.images, self.record.data["masks"], strict=True):
            for name in (image["path"], *masks):
                if not (self.root / name).is_file():
                    raise DatasetError(
                        f"{self.root / name} was part of the benchmark, but is not there. Name the "
                        "folder of the dataset with --data ROOT."
                    )

    def cards(self, full_size: bool, advance: Callable[[int], None]) -> Iterator[dict[str, Any]]:
        """All there is to say of each image."""
        is_normal = np.array([image["label"] == "normal" for image in self.images], np.bool_)
        shown_maps = self.previews[is_normal] if is_normal.any() else self.previews
        low = float(np.nanmedian(shown_maps)) if shown_maps.size else 0.0
        high = float(np.nanquantile(self.previews, 0.999)) if shown_maps.size else 1.0
        levels = np.array([image["level_scores"] for image in self.images], np.float64)
        usual = np.median(levels[is_normal] if is_normal.any() else levels, axis=0)
        ratios = levels / np.maximum(usual, 1e-12)
        middle = _between_classes(self.images) if self.threshold is None else self.threshold

        def card(i: int) -> dict[str, Any]:
            image, masks = self.images[i], self.record.data["masks"][i]
            verdict = _VERDICTS.get((image["label"], image["predicted"]), "not judged")
            return {
                "category": _text(self.name),
                "name": _text(image["path"]),
                "defect": _text(image["defect"]),
                "label": image["label"],
                "verdict": verdict,
                "wrong": verdict in _WRONG,
                "score": image["score"],
                "p": image["p_value"],
                "levels": [round(float(ratio), 3) for ratio in ratios[i]],
                "order": _order(image, middle, i),
                "map": _png(self.previews[i], low, high),
                **self._picture(image, masks, full_size),
            }

        with ThreadPoolExecutor(n_cores()) as pool:
            for found in pool.map(card, range(len(self.images))):
                advance(1)
                yield found

    def _picture(
        self, image: Mapping[str, Any], masks: Sequence[str], full_size: bool
    ) -> dict[str, Any]:
        """An image as data, the outline of its defects, and where on it the map lies."""
        path = self.root / image["path"]
        picture = decode(path)
        source = (picture.height, picture.width)
        top, left, height, width = self.preprocess.window(source)
        if not full_size:
            picture.thumbnail((THUMBNAIL_PX, THUMBNAIL_PX))
        buffer = io.BytesIO()
        picture.save(buffer, "WEBP", quality=_QUALITY[full_size])
        paths = tuple(self.root / name for name in masks)
        truth = Sample(path, image["defect"], None, paths).read_mask()
        outline = ""
        drawn = Image.new("L", picture.size)
        drawn.thumbnail((_FULL_OUTLINE_PX,) * 2)
        if truth is not None:
            outline = outline_path(_shrunk(truth, drawn.size))
        return {
            "image": _data_url("image/webp", buffer.getvalue()),
            "source_px": source,
            "box": [
                round(100 * share, 3)
                for share in (
                    left / source[1],
                    top / source[0],
                    width / source[1],
                    height / source[0],
                )
            ],
            "outline": outline,
            "outline_px": drawn.size,
        }


def outline_path(mask: NDArray[np.bool_]) -> str:
    """The rim of a mask as the path of an SVG, in pixels of the mask.

    Args:
        mask: Shape ``(H, W)``.

    Returns:
        Closed loops along the edges of pixels; empty for an empty mask.
    """
    padded = np.pad(mask, 1)
    inside = padded[1:-1, 1:-1]
    # Each edge has the mask on its right, so that edges join to loops.
    sides = (
        (padded[:-2, 1:-1], (0, 0), (1, 0)),
        (padded[1:-1, 2:], (1, 0), (1, 1)),
        (padded[2:, 1:-1], (1, 1), (0, 1)),
        (padded[1:-1, :-2], (0, 1), (0, 0)),
    )
    following: dict[tuple[int, int], list[tuple[int, int]]] = {}
    for beyond, (x0, y0), (x1, y1) in sides:
        for y, x in np.argwhere(inside & ~beyond).tolist():
            following.setdefault((x + x0, y + y0), []).append((x + x1, y + y1))
    loops = []
    for start in sorted(following, key=lambda corner: corner[::-1]):
        while following[start]:
            corners = [start]
            while following[corners[-1]]:
                corners.append(following[corners[-1]].pop())
            loops.append(_loop(corners))
    return "".join(loops)


def _loop(corners: Sequence[tuple[int, int]]) -> str:
    """Steps between neighbouring corners as straight lines, as few as there can be."""
    lines: list[list[int]] = []
    for (x0, y0), (x1, y1) in pairwise(corners):
        dx, dy = x1 - x0, y1 - y0
        if lines and (lines[-1][0] * dx > 0 or lines[-1][1] * dy > 0):
            lines[-1] = [lines[-1][0] + dx, lines[-1][1] + dy]
        else:
            lines.append([dx, dy])
    x, y = corners[0]
    return f"M{x} {y}" + "".join(f"h{dx}" if dx else f"v{dy}" for dx, dy in lines) + "z"


def _root(record: Record, data: Path | None) -> Path:
    before = Path(record.data["root"])
    if data is None:
        return before
    images = record.data["images"]
    first = images[0]["path"] if images else "."
    named = data / before.name  # the folder of all categories, rather than of this one
    return named if (named / first).exists() else data


def _threshold(images: Sequence[Mapping[str, Any]]) -> float | None:
    """As near to the model's own as its judgements say, which is all that a picture can show."""
    normal = [image["score"] for image in images if image["predicted"] == "normal"]
    anomalous = [image["score"] for image in images if image["predicted"] == "anomalous"]
    ends = [*([max(normal)] if normal else []), *([min(anomalous)] if anomalous else [])]
    return sum(ends) / len(ends) if ends else None


def _between_classes(images: Sequence[Mapping[str, Any]]) -> float:
    """Halfway between the medians of normal and of anomalous images."""
    medians = [
        float(np.median([image["score"] for image in images if image["label"] == label]))
        for label in sorted({image["label"] for image in images})
    ]
    return sum(medians) / max(len(medians), 1)


def _order(image: Mapping[str, Any], threshold: float, i: int) -> tuple[float, str, int]:
    """Rank: the further on the wrong side of the threshold, the earlier."""
    # As a ratio, scores of different models can be compared.
    above = math.log(max(image["score"], 1e-12) / max(threshold, 1e-12))
    return (-above if image["label"] == "normal" else above), image["category"], i


def _shrunk(mask: NDArray[np.bool_], size: tuple[int, int]) -> NDArray[np.bool_]:
    """A mask at another (width, height); what is thin stays."""
    grey = Image.fromarray(mask.astype(np.uint8) * 255).resize(size, Image.Resampling.BOX)
    share = np.asarray(grey)
    kept = share > 63
    return kept if kept.any() else share > 0


def _png(anomaly_map: NDArray[np.float32], low: float, high: float) -> str:
    scaled = (anomaly_map - low) * (255 / max(high - low, 1e-12))
    level = np.nan_to_num(scaled, nan=0).clip(0, 255).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(level).save(buffer, "PNG", optimize=True)
    return _data_url("image/png", buffer.getvalue())


def _data_url(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"


def _text(name: str) -> str:
    """A name as text; file names need not be."""
    return name.encode("utf-8", "backslashreplace").decode("utf-8")


def _page(
    document: Mapping[str, Any], parts: Sequence[_Part], cards: Sequence[dict[str, Any]]
) -> str:
    environment = Environment(
        loader=PackageLoader("padim", "report_files"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    files = {name: _file(environment, name) for name in ("report.css", "report.js")}
    digest = base64.b64encode(hashlib.sha256(files["report.js"].encode()).digest()).decode("ascii")
    counts = Counter(card["verdict"] for card in cards)
    labels = Counter(card["label"] for card in cards)
    settings = dict(document["settings"])
    versions = settings.pop("versions", {})
    details = [{key: card[key] for key in _DETAILS} for card in cards]
    return environment.get_template("report.html.jinja").render(
        css=files["report.css"],
        js=files["report.js"],
        js_sha256=digest,
        settings={key: _setting(value) for key, value in settings.items()},
        size_px=settings["size_px"],
        versions=versions,
        title=_text(parts[0].name) if len(parts) == 1 else f"{len(parts)} categories",
        tiles=_tiles(document),
        is_judged=any(part.threshold is not None for part in parts),
        counts=counts,
        labels=labels,
        n_wrong=sum(card["wrong"] for card in cards),
        table=_table(document),
        sections=[_section(part, document) for part in parts],
        cards=cards,
        defects=Counter(card["defect"] for card in cards),
        failed=[{key: _text(value) for key, value in item.items()} for item in document["failed"]],
        unreadable=[_text(path) for path in document["unreadable"]],
        palette=_palette(),
        gradient=", ".join(f"rgb({r} {g} {b})" for r, g, b in COLOURS[::15].tolist()),
        details=_json(details),
    )


def _file(environment: Environment, name: str) -> Markup:
    assert environment.loader is not None
    return Markup(environment.loader.get_source(environment, name)[0])  # our own


def _json(data: Any) -> Markup:
    """JSON that cannot end the element it stands in."""
    text = json.dumps(data, separators=(",", ":"), ensure_ascii=True)
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)  # escaped just above


def _palette() -> list[str]:
    """The colours of maps, as the tables of an SVG filter: red, green, blue."""
    entries = COLOURS[np.linspace(0, 255, 17).astype(int)] / 255
    return [" ".join(f"{value:.3f}" for value in channel) for channel in entries.T]


def _setting(value: Any) -> str:
    return _text(value if isinstance(value, str) else json.dumps(value))


def _cell(values: Mapping[str, Any], ends: Mapping[str, Any] | None, metric: str) -> Cell:
    interval = ends and ends.get(metric)
    return shown(values.get(metric)), "{:.3f} – {:.3f}".format(*interval) if interval else ""


def _tiles(document: Mapping[str, Any]) -> list[tuple[str, Cell]]:
    means, ends = document["means"]["all"], document["mean_intervals"]["all"]
    wanted = ("image_auroc", "pixel_auroc", "aupro_30")
    return [
        (_TITLES[metric], _cell(means, ends, metric))
        for metric in wanted
        if means and means[metric] is not None
    ]


def _table(document: Mapping[str, Any]) -> dict[str, Any]:
    """Every metric of every category, and the means; few categories are columns."""
    rows = document["rows"]
    metrics = [m for m in METRICS if any(row.get(m) is not None for row in rows)]
    named = [(_text(row["category"]), row, row.get("intervals"), False) for row in rows]
    if len(rows) > 1:
        named += [
            (
                _GROUP_TITLES[group],
                document["means"][group],
                document["mean_intervals"][group],
                True,
            )
            for group in (*GROUPS, "all")
            if document["means"][group]
        ]
    cells = [[_cell(row, ends, metric) for metric in metrics] for _, row, ends, _ in named]
    titles = [_TITLES[metric] for metric in metrics]
    if len(named) <= _FEW_COLUMNS:
        body = [(title, [line[i] for line in cells], False) for i, title in enumerate(titles)]
        return {"corner": "metric", "columns": [name for name, *_ in named], "rows": body}
    body = [(name, line, is_mean) for (name, _, _, is_mean), line in zip(named, cells, strict=True)]
    return {"corner": "category", "columns": titles, "rows": body}


def _section(part: _Part, document: Mapping[str, Any]) -> dict[str, Any]:
    (row,) = [row for row in document["rows"] if row["category"] == part.name]
    curves = part.record.data["curves"]
    files = part.record.data["fingerprint"]["images"]
    digest = hashlib.sha256(json.dumps([entry[:2] for entry in files]).encode()).hexdigest()
    return {
        "name": _text(part.name),
        "n_train": row["n_train"],
        "n_test": row["n_test"],
        "image_roc": _curve(curves["image"], 1.0),
        "pixel_roc": _curve(curves["pixel"], 1.0),
        "pro": _curve(curves["pro"], _PRO_LIMIT),
        "pro_limit": _PRO_LIMIT,
        "image_auroc": shown(row["image_auroc"]),
        "pixel_auroc": shown(row["pixel_auroc"]),
        "aupro_30": shown(row["aupro_30"]),
        "histogram": _histogram(part),
        "defects": _by_defect(part),
        "n_files": len(files),
        "n_bytes": sum(max(int(entry[1]), 0) for entry in files),
        "sha256": digest,
    }


def _by_defect(part: _Part) -> list[dict[str, Any]]:
    found = []
    for defect, metrics in sorted(part.record.data["by_defect"].items()):
        images = [image for image in part.images if image["defect"] == defect]
        is_judged = all(image["predicted"] is not None for image in images)
        n_missed = sum(image["predicted"] == "normal" for image in images)
        found.append(
            {
                "name": _text(defect),
                "n": len(images),
                "missed": str(n_missed) if is_judged else "n/a",
                "values": [(_TITLES[metric], shown(metrics.get(metric))) for metric in _BY_DEFECT],
            }
        )
    return found


def _curve(axes: Sequence[Sequence[float]], limit: float) -> str:
    """A curve up to a rate as the path of a chart; empty where there is none."""
    if len(axes[0]) < 2:
        return ""
    x, y = (np.asarray(axis, np.float64) for axis in axes)
    at_limit = float(np.interp(limit, x, y))
    inside = x < limit
    x, y = np.append(x[inside], limit), np.append(y[inside], at_limit)
    points: list[str] = []
    for left, top in zip(_X0 + (_X1 - _X0) * x / limit, _Y1 - (_Y1 - _Y0) * y, strict=True):
        point = f"{left:.1f} {top:.1f}"
        if not points or points[-1] != point:
            points.append(point)
    return "M" + "L".join(points)


def _histogram(part: _Part) -> dict[str, Any] | None:
    """Scores of normal images upwards, of anomalous ones downwards, over one axis."""
    scores = np.array([image["score"] for image in part.images], np.float64)
    if not len(scores):
        return None
    is_anomalous = np.array([image["label"] == "anomalous" for image in part.images], np.bool_)
    threshold = part.threshold
    low, high = float(scores.min()), float(scores.max())
    pad = (high - low) * 0.02 or 1.0
    low, high = low - pad, high + pad
    edges = np.linspace(low, high, _N_BINS + 1)
    both = [np.histogram(scores[chosen], edges)[0] for chosen in (~is_anomalous, is_anomalous)]
    tallest = [max(int(counts.max()), 1) for counts in both]
    middle = (_Y0 + _Y1) / 2
    # Both share one scale, so that heights can be compared across the axis.
    unit = (middle - _Y0) / max(tallest)
    step = (_X1 - _X0) / _N_BINS
    bars = []
    for counts, sign in zip(both, (-1, 1), strict=True):
        bars.append(
            "".join(
                f"M{_X0 + i * step + 0.5:.1f} {middle:.1f}h{step - 1:.1f}"
                f"v{sign * unit * count:.1f}h{1 - step:.1f}z"
                for i, count in enumerate(counts.tolist())
                if count
            )
        )

    def across(score: float) -> float:
        return round(_X0 + (_X1 - _X0) * (score - low) / (high - low), 1)

    return {
        "normal": bars[0],
        "anomalous": bars[1],
        "n_normal": int((~is_anomalous).sum()),
        "n_anomalous": int(is_anomalous.sum()),
        "tallest": max(tallest),
        "ticks": [(across(tick), f"{tick:g}") for tick in _ticks(low, high)],
        "threshold": None if threshold is None else (across(threshold), f"{threshold:.1f}"),
    }


def _ticks(low: float, high: float) -> list[float]:
    """A few round numbers in a range."""
    rough = (high - low) / 5
    power = 10.0 ** math.floor(math.log10(rough))
    step = min(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough)
    return [round(i * step, 10) for i in range(math.ceil(low / step), math.floor(high / step) + 1)]
