"""Does the drift alarm ring falsely as seldom as it promises, and how soon does it find a change?

Sets are the solar cells of defect probability 0, of either kind, and, where the environment
variable PADIM_DATA is set, the good magnetic tiles there. A model of the default is fitted on 150
good images of a set, drawn at random. The others are scored once, and 120 of them again under each
change: in light (pixels times a factor below 1), blur (a Gaussian filter), shift (to the right) and
dirt (a dark spot on the lens, 20 px wide, that stands still), at four strengths; pixels are those
of the network. Streams are drawn from what was scored.

- *False alarms*: streams of unseen good images in random order, 20,000 parts of them for each row,
  at c = 100 and 1,000. One alarm in c parts is promised, or fewer. Each stream is one order of all
  unseen images, each taken once. A stream begins with nothing, with the images of the fit, which
  give way to the first 50 parts, or with half of the unseen images as held-out ones, another half
  each time: the promise is for both halves drawn, not for one half that stays the same.
- *Images until found*: 1,000 good parts, then changed ones until something rings, 1,000 at most;
  the median over 20 streams, and the share of streams in which it rang within 1,000. What rings
  first counts: the alarm at c = 1,000, or the notice of 20 rejected parts in a row. Streams of an
  alarm before the change are left out.
- *The alternative*: the population stability index (PSI) of the last 500 parts against the first
  500, in tenths, whether accepted or not: of the image score alone at the 0.20 by custom, with the
  false alarms that this gives; and the highest of all the alarm's statistics, at a limit set to one
  false alarm in 1,000 parts on 20,000 good parts.
- *Cost*: what the statistics of an image take beside a prediction of it from a file, taken in turn.
"""

import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import measure
import numpy as np
from false_alarms import find_images
from numpy.typing import NDArray
from PIL import Image, ImageFilter

import padim
from padim.evaluation.run import settings_of
from padim.fitting.fit import build_model
from padim.fitting.prepare import prepare
from padim.fitting.settings import FitSettings
from padim.images.camera import Snapshot
from padim.monitor.alarm import MANY_REJECTED
from padim.monitor.observation import Observation
from padim.scoring.calibration import HELD_OUT
from padim.scoring.prediction import Decision, decide
from padim.scoring.reference import shrink_map

N_FIT, N_CHANGED = 150, 120
STRENGTHS: dict[str, tuple[float, ...]] = {
    "light": (0.98, 0.95, 0.9, 0.8),
    "blur": (0.5, 0.75, 1.0, 1.5),
    "shift": (1, 2, 4, 8),
    "dirt": (0.95, 0.9, 0.8, 0.6),
}
LIMITS = (100, 1000)
N_PARTS, N_STREAMS, N_BEFORE, N_AFTER = 20_000, 20, 1000, 1000
N_UNSEEN = 330
WINDOW, PSI_LIMIT, N_BINS = 500, 0.20, 10
DIRT_PX = 10.0

Rows = NDArray[np.float64]


@dataclass(frozen=True)
class Scored:
    """What was scored of some images."""

    parts: list[Observation]

    @property
    def rows(self) -> Rows:
        """Their statistics, one row each."""
        return np.array([list(part.values.values()) for part in self.parts])

    @property
    def rejected(self) -> float:
        """The share that is rejected."""
        return float(np.mean([not part.is_accepted for part in self.parts]))

    def draw(self, rng: np.random.Generator, n: int) -> list[int]:
        """Places of so many, each as likely each time."""
        return [int(place) for place in rng.integers(0, len(self.parts), n)]


def change(picture: Image.Image, kind: str, strength: float) -> Image.Image:
    """A picture of network size as it is after a change."""
    if kind == "blur":
        return picture.filter(ImageFilter.GaussianBlur(strength))
    pixels = np.asarray(picture).astype(np.float64)
    if kind == "light":
        pixels = pixels * strength
    elif kind == "shift":
        by = int(strength)
        pixels = np.pad(pixels, ((0, 0), (by, 0), (0, 0)), mode="edge")[:, : pixels.shape[1]]
    else:
        height, width = pixels.shape[:2]
        down, right = np.mgrid[:height, :width]
        away_sq = (down - 0.3 * height) ** 2 + (right - 0.65 * width) ** 2
        spot = np.exp(-((away_sq / DIRT_PX**2) ** 2))
        pixels = pixels * (1 - (1 - strength) * spot[..., None])
    return Image.fromarray(np.rint(pixels).clip(0, 255).astype(np.uint8))


def score(model: padim.Predictor, images: Sequence[Any]) -> Scored:
    """Score images."""
    return Scored([Observation.of(one, name="") for one in model.stream(images)])


Start = Callable[[np.random.Generator], tuple[Decision | None, list[Observation]]]


def hold_out(model: padim.Predictor, good: Scored) -> Start:
    """Begin each stream with a half of its own; the other half comes as parts."""
    known = model.description.calibration
    assert known is not None
    assert known.reference is not None
    rows, reference = good.rows.astype(np.float32), known.reference
    n_levels = reference.level_scores.shape[1]

    def start(rng: np.random.Generator) -> tuple[Decision, list[Observation]]:
        order = rng.permutation(len(rows))
        half = order[: len(rows) // 2]
        held = rows[half[np.argsort(rows[half, 0])]]
        own = replace(
            reference, level_scores=held[:, 1 : 1 + n_levels], camera=held[:, 1 + n_levels :]
        )
        calibration = replace(
            known, source=HELD_OUT, image_score=held[:, 0], chosen=None, reference=own
        )
        decision = decide(calibration)
        limit = decision.threshold.score
        values = [good.parts[k].values for k in order[len(half) :]]
        return decision, [Observation(one, one["score"] <= limit) for one in values]

    return start


def begin_with(decision: Decision | None, good: Scored) -> Start:
    """Begin each stream alike; all parts come."""

    def start(rng: np.random.Generator) -> tuple[Decision | None, list[Observation]]:
        return decision, [good.parts[k] for k in rng.permutation(len(good.parts))]

    return start


def count_alarms(start: Start, limit: int, n_parts: int) -> dict[str, Any]:
    """Watch streams, each in an order of its own."""
    n_alarms = n_seen = n_streams = 0
    rng = np.random.default_rng(limit)
    while n_seen < n_parts:
        decision, parts = start(rng)
        monitor = padim.Monitor(decision, parts_between_alarms=limit, seed=n_streams)
        n_alarms += sum(monitor.update(part).alarm is not None for part in parts)
        n_seen += len(parts)
        n_streams += 1
    promised = n_seen / limit
    return {
        "limit": limit,
        "n_parts": n_seen,
        "n_streams": n_streams,
        "n_alarms": n_alarms,
        "promised": promised,
        # Alarms are rare and apart: about Poisson, of which four deviations are no chance.
        "holds": bool(n_alarms <= promised + 4 * promised**0.5),
    }


def find_psi(reference: Rows, stream: Rows) -> NDArray[np.float64]:
    """The PSI of each window of 500 parts of a stream, for each statistic."""
    found = []
    for own, values in zip(reference.T, stream.T, strict=True):
        edges = np.quantile(own, np.linspace(0, 1, N_BINS + 1)[1:-1])
        bins = np.searchsorted(edges, values)
        expected = np.bincount(np.searchsorted(edges, own), minlength=N_BINS) / len(own)
        counts = np.cumsum(np.eye(N_BINS)[bins], axis=0)
        counts = np.vstack((np.zeros((1, N_BINS)), counts))
        share = ((counts[WINDOW:] - counts[:-WINDOW]) / WINDOW).clip(1e-4)
        expected = expected.clip(1e-4)
        found.append(((share - expected) * np.log(share / expected)).sum(axis=1))
    return np.stack(found, axis=1)


def count_windows(series: Sequence[NDArray[np.float64]], limit: float) -> int:
    """Alarms of windows that are filled anew after each."""
    n_alarms = 0
    for psi in series:
        place = 0
        while place < len(psi):
            above = np.flatnonzero(psi[place:] >= limit)
            if not above.size:
                break
            n_alarms += 1
            place += int(above[0]) + WINDOW
    return n_alarms


def set_limit(scored: Scored, n_parts: int) -> tuple[float, float]:
    """The limit of the highest PSI of one false alarm in 1,000, and the rate of 0.20 of a score."""
    rng, rows = np.random.default_rng(3), scored.rows
    length = 4 * WINDOW
    n_streams = max(1, n_parts // length)
    highest, of_score = [], []
    for _ in range(n_streams):
        psi = find_psi(rows[scored.draw(rng, WINDOW)], rows[scored.draw(rng, length)])
        highest.append(psi.max(axis=1))
        of_score.append(psi[:, 0])
    wanted = n_streams * length / 1000
    limits = np.linspace(0.02, 1, 491)
    limit = next(float(one) for one in limits if count_windows(highest, one) <= wanted)
    return limit, count_windows(of_score, PSI_LIMIT) / (n_streams * length)


def find_delays(
    good: Scored, changed: dict[tuple[str, float], Scored], psi_limit: float, n_streams: int
) -> list[dict[str, Any]]:
    """How many changed parts it takes, for each change."""
    rng = np.random.default_rng(4)
    before = [good.draw(rng, N_BEFORE) for _ in range(n_streams)]
    saved = []
    for i, places in enumerate(before):
        monitor = padim.Monitor(parts_between_alarms=1000, seed=i)
        states = [monitor.update(good.parts[place]) for place in places]
        rang = any(state.alarm for state in states)
        saved.append(None if rang else monitor.save())
    found = []
    for (kind, strength), scored in changed.items():
        row: dict[str, Any] = {"change": kind, "strength": strength, "rejected": scored.rejected}
        delays: dict[str, list[float]] = {"monitor": [], "psi_score": [], "psi_highest": []}
        culprits: list[str] = []
        for places, text in zip(before, saved, strict=True):
            if text is None:
                continue
            after = scored.draw(rng, N_AFTER)
            delay, culprit = watch(padim.Monitor.restore(text), [scored.parts[k] for k in after])
            delays["monitor"].append(delay)
            culprits.append(culprit)
            known = good.rows[places]
            stream = np.vstack((known[WINDOW:], scored.rows[after]))
            psi = find_psi(known[:WINDOW], stream)[1:]
            for name, series, limit in (
                ("psi_score", psi[:, 0], PSI_LIMIT),
                ("psi_highest", psi.max(axis=1), psi_limit),
            ):
                above = np.flatnonzero(series >= limit)
                delays[name].append(float(above[0]) + 1 if above.size else np.inf)
        for name, values in delays.items():
            median = float(np.median(values))
            row[name] = {
                "median": median if np.isfinite(median) else None,
                "found": float(np.mean(np.isfinite(values))),
            }
        row["n_streams"] = len(culprits)
        row["culprit"] = max(set(culprits), key=culprits.count)
        found.append(row)
    return found


def watch(monitor: padim.Monitor, parts: Sequence[Observation]) -> tuple[float, str]:
    """How many parts it takes until something rings, and what it was."""
    for i, part in enumerate(parts, 1):
        state = monitor.update(part)
        if state.alarm is not None:
            return i, state.alarm.culprit.statistic
        if state.n_rejected_in_a_row >= MANY_REJECTED:
            return i, "rejected in a row"
    return np.inf, "nothing"


def find_cost(model: padim.PaDiM, paths: Sequence[Path], n_rounds: int) -> dict[str, Any]:
    """What the statistics of an image take, by a prediction of it alone."""
    path = str(paths[0])
    pixels = model.read(path).pixels
    known = model.description.calibration
    assert known is not None
    assert known.reference is not None
    mean_image, found = known.reference.mean_image, model.predict(path)

    def of(work: Callable[[], object]) -> Callable[[], float]:
        return lambda: measure.settled(lambda: measure.seconds(work), 9)

    def take_statistics() -> None:
        Snapshot.of(pixels).compare(mean_image)
        shrink_map(found.anomaly_map)

    spreads = measure.in_turn(
        {"statistics": of(take_statistics), "prediction": of(lambda: model.predict(path))},
        n_rounds,
    )
    ratio = spreads["statistics"].over(spreads["prediction"])
    return {
        "seconds": {name: one.to_json() for name, one in spreads.items()},
        "ratio": ratio.to_json(),
    }


def run_set(name: str, paths: list[Path], *, quick: bool) -> dict[str, Any]:
    """All of one set."""
    n_fit, n_changed = (20, 4) if quick else (N_FIT, N_CHANGED)
    n_parts, n_streams = (500, 2) if quick else (N_PARTS, N_STREAMS)
    order = np.random.default_rng(0).permutation(len(paths))
    images = [paths[i] for i in order[: 60 if quick else None]]
    fitter = prepare(FitSettings(device="cpu"))
    measure.say(f"{name}: {n_fit} of {len(images)} images are fitted")
    fitted = fitter.fit(images[:n_fit])
    model, unseen = build_model(fitter, fitted), images[n_fit:][:N_UNSEEN]
    assert model.decision is not None
    good = score(model, unseen)
    starts = {
        "nothing": begin_with(None, good),
        "leave-one-out": begin_with(model.decision, good),
        "held-out": hold_out(model, good),
    }
    rates = []
    for begin, start in starts.items():
        measure.say(f"{name}: false alarms, beginning with {begin}")
        for limit in LIMITS:
            rates.append({"start": begin} | count_alarms(start, limit, n_parts))
    measure.say(f"{name}: changes")
    pictures = [Image.fromarray(model.read(path).pixels) for path in unseen[:n_changed]]
    changed = {
        (kind, strength): score(model, [change(one, kind, strength) for one in pictures])
        for kind, strengths in STRENGTHS.items()
        for strength in strengths
    }
    psi_limit, psi_rate = set_limit(good, n_parts)
    delays = find_delays(good, changed, psi_limit, n_streams)
    assert fitted.order is not None
    return {
        "set": name,
        "n_images": len(images),
        "n_unseen": len(unseen),
        "rejected_good": good.rejected,
        "order_capital": fitted.order.capital,
        "false_alarms": rates,
        "psi_limit": psi_limit,
        "psi_score_false_alarms_per_1000": 1000 * psi_rate,
        "changes": delays,
        "cost": find_cost(model, unseen, 3 if quick else 15),
        "settings": settings_of(fitter),
    }


def show(found: dict[str, Any]) -> str:
    """A median, with the share that was found where that is not all."""
    median = "-" if found["median"] is None else f"{found['median']:.0f}"
    return median if found["found"] == 1 else f"{median} ({found['found']:.0%})"


def list_lines(rows: Sequence[dict[str, Any]]) -> Iterator[tuple[object, ...]]:
    """The lines of the table of changes."""
    for row in rows:
        for one in row["changes"]:
            shown = (show(one[key]) for key in ("monitor", "psi_score", "psi_highest"))
            what = f"{one['change']} {one['strength']:g}"
            yield row["set"], what, f"{one['rejected']:.0%}", *shown, one["culprit"]


def main() -> None:
    """Run the benchmark."""
    quick = measure.arguments(__doc__).quick
    about = measure.facts(["elpv-dataset"])
    with tempfile.TemporaryDirectory() as folder:
        sets = find_images(Path(folder))
        chosen = list(sets)[:1] if quick else list(sets)
        rows = [run_set(name, sets[name], quick=quick) for name in chosen]
    measure.print_table(
        ("false alarms", "begins with", "c", "parts", "promised", "rang", "holds"),
        [
            (
                row["set"],
                *(one[key] for key in ("start", "limit", "n_parts")),
                f"{one['promised']:.0f}",
                one["n_alarms"],
                "yes" if one["holds"] else "no",
            )
            for row in rows
            for one in row["false_alarms"]
        ],
    )
    print()
    headers = ("parts until found", "change", "rejected", "alarm", "PSI 0.20", "PSI", "by")
    measure.print_table(headers, list_lines(rows))
    ratios = {}
    for begin in ("nothing", "leave-one-out", "held-out"):
        own = [one for row in rows for one in row["false_alarms"] if one["start"] == begin]
        ratios[begin] = sum(r["n_alarms"] for r in own) / sum(r["promised"] for r in own)
    cost = max(row["cost"]["ratio"]["median"] for row in rows)
    aims = measure.judge(
        [
            *(
                measure.Aim(f"False alarms over those promised, beginning with {begin}", ratio, 1)
                for begin, ratio in ratios.items()
            ),
            measure.Aim("Statistics over a prediction, time, largest", cost, 0.02, digits=4),
        ]
    )
    settings = {"n_parts": N_PARTS, "n_streams": N_STREAMS, "window": WINDOW, "n_fit": N_FIT}
    content = {"settings": settings, "aims": aims, "rows": rows}
    measure.finish("monitor", about, content, quick=quick)


if __name__ == "__main__":
    main()
