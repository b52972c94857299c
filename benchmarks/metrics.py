"""Do our metrics of maps agree with anomalib's and torchmetrics', and what do both cost?

Writes the lower part of docs/metrics.md too: who agrees where.

The same generated maps go to all, in the guises that ``GUISES`` names.
"""

import json
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import measure
import numpy as np
import peer_env
import process
from measure import Spread
from numpy.typing import NDArray

from padim.files import write_text

PAGE = measure.ROOT / "docs" / "metrics.md"
METRICS = (
    "pixel_auroc",
    "pixel_average_precision",
    "pixel_f1_max",
    "aupro_30",
    "aupro_05",
    "aupimo",
)
WRITTEN = "## Two ways of counting"  # above it, the page is written by hand
OTHERS = ("streaming", "anomalib", "torchmetrics")
COSTS = ("seconds", "added_bytes")
SAME = 1e-5  # float32 sums of the others differ by less
SIGMOID = "scores outside [0, 1] are put through a sigmoid, where high ones become equal"
CUT = "the range is cut at the nearest thresholds, but the area divided by the whole range"
UNKNOWN = "unknown"
NO_NAN = "NaN is ranked like a score"
GUISES = {
    "distances": "as a model gives them, from about 2 to 40",
    "scaled": "the same from 0 to 1",
    "tied": "rounded to whole numbers",
    "spike": "one normal pixel at 100,000",
    "masked": "a border of NaN that nobody looked at",
}
WHY = {
    ("distances", "torchmetrics"): SIGMOID,
    ("tied", "torchmetrics"): SIGMOID,
    ("spike", "torchmetrics"): SIGMOID,
    ("masked", "torchmetrics"): NO_NAN,
    ("masked", "anomalib"): NO_NAN,
}


def smooth(noise: NDArray[np.float64], sigma_px: float) -> NDArray[np.float64]:
    """Noise blurred by a Gaussian, round the edges, of mean 0 and deviation 1."""
    rate = np.fft.fftfreq(noise.shape[-1])
    kernel = np.exp(-2 * (np.pi * sigma_px * rate) ** 2)
    spectrum = np.fft.fft2(noise) * np.outer(kernel, kernel)
    blurred: NDArray[np.float64] = np.fft.ifft2(spectrum).real
    blurred -= blurred.mean()
    blurred /= blurred.std()
    return blurred


def generate(n_images: int, side_px: int) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Maps and masks, the first half normal; some defects are plain, some hardly there."""
    generator = np.random.default_rng(0)
    maps = np.zeros((n_images, side_px, side_px), np.float32)
    masks = np.zeros(maps.shape, np.bool_)
    for i in range(n_images):
        fine, coarse, blobs, strength = generator.standard_normal((4, side_px, side_px))
        ground = 14 + 2 * smooth(fine, 3) + smooth(coarse, side_px / 12)
        if i >= n_images // 2:
            masks[i] = smooth(blobs, side_px / 24) > generator.uniform(1.9, 2.4)
            ground += 6 * (1.2 + smooth(strength, side_px / 8)) * masks[i]
        maps[i] = np.abs(ground)
    return maps, masks


def guises(maps: NDArray[np.float32], masks: NDArray[np.bool_]) -> dict[str, NDArray[np.float32]]:
    """The maps as the module names them."""
    low, high = maps.min(), maps.max()
    spike, masked = maps.copy(), maps.copy()
    spike[0, 0, 0] = 1e5
    border = maps.shape[1] // 8
    masked[:, :border] = np.nan
    return {
        "distances": maps,
        "scaled": (maps - low) / (high - low),
        "tied": maps.round(),
        "spike": spike,
        "masked": masked,
    }


def run(python: object, script: str, *words: object) -> tuple[dict[str, Any], process.Ran]:
    """What a script of this folder prints, and what its process did."""
    path = measure.ROOT / "benchmarks" / script
    ran = process.run(
        (python, path, *words), {**os.environ, **peer_env.PASSIVE, "PYTHONWARNINGS": "ignore"}
    )
    return json.loads(ran.stdout), ran


def compare(folders: Sequence[Path]) -> list[dict[str, Any]]:
    """Every metric of every guise by everyone, and who differs from the exact one and why."""
    exact, _ = run(sys.executable, "metrics_own.py", "exact", *folders)
    streaming, _ = run(sys.executable, "metrics_own.py", "streaming", *folders)
    explained, _ = run(sys.executable, "metrics_own.py", "explained", *folders)
    peers, _ = run(peer_env.anomalib_python(), "metrics_peer.py", *folders)
    rows = []
    for guise in exact:
        for metric in METRICS:
            value = exact[guise][metric]["value"]
            ours = streaming[guise]
            bounds = [ours["bounds"][order][metric] for order in ("worst", "best")]
            found = {"streaming": {"value": ours["together"]["value"][metric], "error": None}}
            found |= {who: of[metric] for who, of in peers[guise].items() if metric in of}
            others = {}
            for who, other in found.items():
                gap = None if other["value"] is None else other["value"] - value
                others[who] = {"value": other["value"], "minus_exact": gap}
                if gap is None or not abs(gap) <= SAME:
                    others[who]["why"] = other["error"] or why(guise, metric, who)
                    if who != "streaming" and gap is not None and metric in explained[guise]:
                        others[who]["minus_explained"] = other["value"] - explained[guise][metric]
            rows.append(
                {"guise": guise, "metric": metric, "exact": value, "bounds": bounds, **others}
            )
    return rows


def why(guise: str, metric: str, who: str) -> str:
    """Why someone's value is not the exact one."""
    if who == "streaming":
        return "rounded to float16"
    if (guise, who) in WHY:
        return WHY[guise, who]
    if metric == "pixel_auroc" and guise != "scaled":
        return SIGMOID
    return CUT if metric == "aupimo" else UNKNOWN


def print_rows(rows: Sequence[dict[str, Any]]) -> None:
    """Print the comparison, and the reasons below."""
    table, reasons = comparison(rows)
    headers = ("maps, metric", "exact", "bounds apart", *(f"{who} -" for who in OTHERS))
    measure.print_table(headers, table)
    for i, reason in enumerate(reasons, 1):
        print(f"({i}) {reason}")
    print(explained_words(rows))


def comparison(rows: Sequence[dict[str, Any]]) -> tuple[list[list[str]], list[str]]:
    """The cells of the comparison, and the reasons that they number."""
    reasons: list[str] = []
    table = []
    for row in rows:
        cells = [f"{row['guise']} {row['metric']}", f"{row['exact']:.6f}"]
        cells.append(f"{row['bounds'][1] - row['bounds'][0]:.0e}")
        for who in OTHERS:
            other = row.get(who)
            if other is None:
                cells.append("")
                continue
            gap = other["minus_exact"]
            cell = "none" if gap is None else f"{gap:+.0e}"
            if "why" in other:
                if other["why"] not in reasons:
                    reasons.append(other["why"])
                cell += f" ({reasons.index(other['why']) + 1})"
            cells.append(cell)
        table.append(cells)
    return table, reasons


def explained_words(rows: Sequence[dict[str, Any]]) -> str:
    """How far the reasons explain the differences."""
    others = [row[who] for row in rows for who in OTHERS if who in row]
    left = [abs(o["minus_explained"]) for o in others if "minus_explained" in o]
    most = max(left, default=0.0)
    return f"Done their way in {len(left)} such cases, ours differ from theirs by {most:.0e}."


def page(document: dict[str, Any]) -> str:
    """The page that says what the metrics are, with who agrees where below that."""
    machine, scale, settings = document["machine"], document["scale"], document["settings"]
    rows = document["values"]
    table, reasons = comparison(rows)
    ratio = document["ratios_to_anomalib"]["streaming all"]["seconds"]["median"]
    definitions, marker, _ = PAGE.read_text(encoding="utf-8").partition(WRITTEN)
    lines = [
        f"{definitions}{marker}",
        "",
        "*Exact* takes every score that occurs as a threshold. *Streaming*, what `benchmark` and "
        "`evaluate` do, counts pixels by their score rounded to float16, image by image: counts "
        "of any number of images can be added up, here and elsewhere. What rounding can do to a "
        "metric is known from the counts (`PixelMetrics.bounds`): the exact value lies between the "
        "metric with all ties broken one way and the other, *bounds apart* below.",
        "",
        f"{scale['n_images']:,} maps of {scale['side_px']:,} x {scale['side_px']:,} pixels "
        f"({scale['maps_bytes_computed'] / 1e9:.0f} GB) are counted in "
        f"{scale['counting_ms_per_image']:.1f} ms each and "
        f"{scale['process_peak_bytes'] / 1e9:.2f} GB at the peak, every metric of them takes "
        f"{scale['once_s']:.1f} s, and their intervals {scale['resampling_s']:.0f} s. All that "
        f"anomalib has takes {ratio:.3f} of its time on the {settings['n_images']} maps below.",
        "",
        "## Who agrees where",
        "",
        f"Written by `{document['command']}` on {document['date']} ({machine['cpu']}, "
        f"{machine['cores']} cores, commit {(document['commit'] or 'unknown')[:7]}): "
        f"{settings['n_images']} generated maps of {settings['side_px']} x {settings['side_px']} "
        "pixels, half of them normal, given to all alike in several guises. The exact value, and "
        "how far the others are from it; sums in float32 make about 1e-7. In the tests, the exact "
        "values are those of scikit-learn and of the definitions written out.",
        "",
        *(f"- *{guise}*: {words}." for guise, words in GUISES.items()),
        "",
        f"| maps, metric | exact | bounds apart | {' | '.join(OTHERS)} |",
        f"|---|---|---|{'---|' * len(OTHERS)}",
        *(f"| {' | '.join(cells)} |" for cells in table),
        "",
        *(
            f"{i}. {reason[0].upper()}{reason[1:].rstrip('.')}."
            for i, reason in enumerate(reasons, 1)
        ),
        "",
        explained_words(rows),
    ]
    return "\n".join(lines) + "\n"


def cost(folder: Path, n_rounds: int) -> dict[str, Any]:
    """What everyone costs, in turn, each in a fresh process.

    Seconds of each metric, and seconds and bytes added at the peak of those that anomalib has. A
    single metric's bytes would be what the one before it left to be used again.
    """
    taken: dict[str, dict[str, list[float]]] = {}

    def note(who: str, **values: float) -> None:
        place = taken.setdefault(who, {key: [] for key in values})
        for key, value in values.items():
            place[key].append(value)

    for _ in range(n_rounds):
        ours, _ = run(sys.executable, "metrics_own.py", "streaming", folder)
        counting, together = ours[folder.name]["counting"], ours[folder.name]["together"]
        note("streaming counting", seconds=counting["seconds"])
        note("streaming all", **{key: counting[key] + together[key] for key in COSTS})
        exact, _ = run(sys.executable, "metrics_own.py", "exact", folder)
        peers, _ = run(peer_env.anomalib_python(), "metrics_peer.py", folder)
        of_all = {"exact": exact[folder.name], **peers[folder.name]}
        for library, metrics in of_all.items():
            for name, what in metrics.items():
                note(f"{library} {name}", seconds=what["seconds"])
        for library in ("exact", "anomalib"):
            parts = [of_all[library][name] for name in of_all["anomalib"]]
            added = max(part["added_bytes"] for part in parts)
            seconds = sum(part["seconds"] for part in parts)
            note(f"{library} all", seconds=seconds, added_bytes=added)
    return {
        who: {key: Spread(tuple(values)) for key, values in place.items()}
        for who, place in taken.items()
    }


def print_cost(spreads: dict[str, dict[str, Spread]]) -> dict[str, Any]:
    """Print the cost and its ratios to anomalib's; give both as plain data."""
    rows: list[list[str]] = []
    ratios: dict[str, dict[str, Any]] = {}
    for who, of in spreads.items():
        library, _, metric = who.partition(" ")
        alternative = spreads.get(f"anomalib {metric}")
        cells = [who, *("" for _ in range(2 * len(COSTS)))]
        for k, (key, spread) in enumerate(of.items()):
            scale, digits = ((1, 2), (1e-6, 0))[k]
            cells[1 + k] = spread.shown(scale, digits)
            if alternative is not None and library != "anomalib":
                ratio = spread.over(alternative[key])
                cells[1 + len(COSTS) + k] = ratio.shown(digits=3)
                ratios.setdefault(who, {})[key] = ratio.to_json()
        rows.append(cells)
    print()
    headers = ("", "s", "MB added", "s / anomalib's", "MB / anomalib's")
    measure.print_table(headers, rows)
    plain = {who: {key: s.to_json() for key, s in of.items()} for who, of in spreads.items()}
    return {"cost": plain, "ratios_to_anomalib": ratios}


def main() -> None:
    """Compare, time, and count ten thousand megapixel maps."""
    options = measure.arguments(__doc__)
    about = measure.facts()
    n_images, side_px, n_rounds = (8, 64, 1) if options.quick else (48, 256, 3)
    scale = (20, 128, 50) if options.quick else (10_000, 1024, 1000)
    maps, masks = generate(n_images, side_px)
    with tempfile.TemporaryDirectory() as name:
        folders = []
        for guise, values in guises(maps, masks).items():
            folder = Path(name) / guise
            folder.mkdir()
            np.save(folder / "maps.npy", values.astype(np.float32))
            np.save(folder / "masks.npy", masks)
            folders.append(folder)
        measure.say("Comparing.")
        rows = compare(folders)
        print_rows(rows)
        measure.say("Timing.")
        costs = print_cost(cost(folders[0], n_rounds))
    measure.say("Counting many large maps.")
    large, ran = run(sys.executable, "metrics_own.py", "scale", *scale)
    large["process_peak_bytes"] = ran.peak_bytes
    print(
        f"\n{large['n_images']:,} maps of {large['side_px']} x {large['side_px']} px: "
        f"{large['counting_ms_per_image']:.1f} ms each to count, "
        f"{large['counts_bytes'] / 1e6:.0f} MB of counts "
        f"({large['maps_bytes_computed'] / 1e9:.1f} GB of maps, computed), "
        f"{large['once_s']:.1f} s for all metrics, {large['resampling_s']:.0f} s for "
        f"{large['n_resamples']:,} resamples, {ran.peak_bytes / 1e6:.0f} MB at the peak."
    )
    limit = 2.0
    aims = [
        measure.Aim("Peak of the process, GB", ran.peak_bytes / 1e9, limit),
        measure.Aim(
            "Furthest that the exact value lies outside the bounds of the counts",
            max(max(r["bounds"][0] - r["exact"], r["exact"] - r["bounds"][1]) for r in rows),
            1e-9,
            digits=10,
        ),
        measure.Aim(
            "Differences that nothing explains",
            sum(row.get(who, {}).get("why") == UNKNOWN for row in rows for who in OTHERS),
            0,
            digits=0,
        ),
    ]
    content = {
        "settings": {"n_images": n_images, "side_px": side_px, "n_rounds": n_rounds},
        "values": rows,
        **costs,
        "scale": large,
        "aims": measure.judge(aims),
    }
    document = measure.finish("metrics", about, content, quick=options.quick)
    text = page(document)
    if not options.quick:
        write_text(PAGE, text)
        print(f"Written: {PAGE.relative_to(measure.ROOT).as_posix()}")


if __name__ == "__main__":
    main()
