"""The page of times, memory and sizes, from what the benchmarks found."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results"
_NAMES = (
    "recipe_cost",
    "scoring",
    "fit_peer",
    "fit",
    "fit_memory",
    "cold_start",
    "start",
    "folder",
    "head",
    "processes",
    "roi",
    "large_images",
    "pictures",
    "file_bytes",
    "serving",
    "cluster",
    "large_networks",
)
_WAYS = ("overlays", "no overlays")


def table(headers: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Lines of a table in Markdown."""
    return [
        f"| {' | '.join(headers)} |",
        f"|{'---|' * len(headers)}",
        *(f"| {' | '.join(row)} |" for row in rows),
    ]


def load_result(name: str) -> dict[str, Any]:
    """What a benchmark found."""
    found: dict[str, Any] = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
    return found


def speed_page() -> str:
    """Times, memory and sizes as the benchmarks found them."""
    found = {name: load_result(name) for name in _NAMES}
    lines = [
        "# Speed, memory, sizes",
        "",
        "Written by `python docs/scripts/write_pages.py` from `benchmarks/results/`. Each table "
        "says by which command, when and on which machine it came about. Times are medians. They "
        "depend on the machine, which on some days was half as fast: compare times of one table "
        "alone. What counts are the ratios to an alternative of the same run; a ratio is the "
        "median of those of the rounds, not the quotient of two medians. How it is "
        "measured: `benchmarks/README.md`; which aims were missed: `aims` in each result.",
        "",
        "anomalib is version 2.7.0 with the same network, weights, taps and images. The network is "
        "EfficientNet-Lite0 at 256 px where nothing else is said. Beside anomalib, and in tables "
        "of before 2026-11-27, it has three levels and no coarse head: the first table says what "
        "recipes cost beside that. No CUDA device was measured "
        "([what is ready for one](howto/gpu.md)).",
    ]
    for title, table in (
        ("Recipes", _recipe_table(found["recipe_cost"])),
        ("One image, decoded", _scoring_table(found["scoring"])),
        ("One picture from a cold start", _cold_table(found["cold_start"])),
        ("What is waited for", _start_table(found["start"])),
        ("A folder of images", _folder_table(found["folder"])),
        ("A service", _serving_table(found["serving"])),
        ("Two processes on one machine", _processes_table(found["processes"])),
        ("A fit, as a whole command", _fit_table(found["fit_peer"])),
        ("A fit, beyond its network", _beyond_table(found["fit"])),
        ("A fit in shards", _shards_table(found["cluster"])),
        ("Memory of a fit", _memory_table(found["fit_memory"])),
        ("The distances alone", _head_table(found["head"])),
        ("Large networks", _networks_table(found["large_networks"])),
        ("Sizes of model files", _bytes_table(found["file_bytes"])),
        ("A region of interest", _roi_table(found["roi"])),
        ("Large images", _large_table(found["large_images"])),
        ("The picture of a test image", _pictures_table(found["pictures"])),
    ):
        lines += ["", f"## {title}", "", *table]
    return "\n".join(lines) + "\n"


def source(result: dict[str, Any]) -> list[str]:
    """The line that says by what, when and where a result came about."""
    machine = result["machine"]
    return [
        "",
        f"`{result['command']}`, {result['date']}, {machine['cpu']}, {machine['cores']} cores.",
    ]


def _ms(measured: dict[str, Any]) -> str:
    low, high = measured["iqr"]
    return f"{measured['median'] * 1e3:.1f} ms ({low * 1e3:.1f} to {high * 1e3:.1f})"


def _recipe_table(result: dict[str, Any]) -> list[str]:
    headers = ("recipe", "numbers", "one image", "ratio", "16 images", "ratio")
    rows = [
        (
            row["recipe"],
            f"{row['n_numbers'] / 1e6:.1f} M",
            *(
                cell
                for n in ("1", "16")
                for cell in (_ms(row["seconds"][n]), f"{row['ratio'][n]['median']:.2f}")
            ),
        )
        for row in result["rows"]
    ]
    return [*table(headers, rows), *source(result)]


def _scoring_table(result: dict[str, Any]) -> list[str]:
    seconds, sizes = result["seconds"], result["file_bytes"]
    rows = [
        ("padim, three levels, OpenVINO, float32", _ms(seconds["openvino float32"])),
        ("padim, three levels, OpenVINO, bfloat16", _ms(seconds["openvino bfloat16"])),
        ("padim, three levels, ONNX Runtime", _ms(seconds["onnxruntime"])),
        ("padim, three levels, torch", _ms(seconds["torch"])),
        *(
            (f"padim, `{recipe}`, {title}", _ms(seconds[f"{recipe}, {engine}"]))
            for recipe in ("standard", "fast")
            for title, engine in (
                ("OpenVINO, float32", "openvino float32"),
                ("OpenVINO, bfloat16", "openvino bfloat16"),
                ("ONNX Runtime", "onnxruntime"),
            )
        ),
        ("anomalib, torch", _ms(seconds["anomalib torch"])),
        ("anomalib, its OpenVINO export, float32", _ms(seconds["anomalib openvino_f32"])),
        ("anomalib, its OpenVINO export, bfloat16", _ms(seconds["anomalib openvino"])),
    ]
    files = [
        ("padim, `.onnx`", f"{sizes['.onnx'] / 1e6:.0f} MB"),
        ("padim, `.xml` and `.bin`", f"{sizes['.xml + .bin'] / 1e6:.0f} MB"),
        ("anomalib, its OpenVINO export", f"{sizes['anomalib'] / 1e6:.0f} MB"),
    ]
    alone, together = (_parts(result, n_images) for n_images in (1, 16))
    return [
        *table(("from pixels to map and score", "median (quartiles)"), rows),
        "",
        *table(("exported file", "size"), files),
        "",
        "A graph reads its whitening rows from memory once for each call: 107 MB of three levels, "
        "43 MB of `standard`. So the distances of three levels take "
        f"{min(alone):.2f} to {max(alone):.2f} of the network's time when images come one at a "
        f"time, and {min(together):.2f} to {max(together):.2f} in batches of 16.",
        *source(result),
    ]


def _parts(result: dict[str, Any], n_images: int) -> list[float]:
    rows = [
        row
        for row in result["head"]
        if (row["recipe"], row["n_images"]) == ("three levels", n_images)
    ]
    return [row["head_over_trunk"]["median"] for row in rows]


def _start_table(result: dict[str, Any]) -> list[str]:
    rows = [
        (
            name,
            f"{result['seconds'][name]['median']:.2f} s",
            f"{result['processor_seconds'][name]['median']:.2f} s",
            f"{result['peak_bytes'][name] / 1e6:.0f} MB",
        )
        for name in result["seconds"]
    ]
    return [
        f"Whole processes. A fit is of {result['settings']['n_images']} images, the network's "
        "graph in the cache; a first fit writes the graph. A program is `padim.fit` in Python, "
        "with padim imported before torch or after it. Peak memory is the highest of the rounds.",
        "",
        *table(("process", "time", "processor time", "peak memory"), rows),
        *source(result),
    ]


def _cold_table(result: dict[str, Any]) -> list[str]:
    rows = [
        (
            f"`padim predict` of a {name}",
            f"{result['seconds'][name]['median']:.1f} s",
            f"{result['peak_bytes'][name]['median'] / 1e6:.0f} MB",
        )
        for name in ("graph", "model file")
    ]
    return [
        *table(("process", "time", "peak memory"), rows),
        "",
        "The graph is scored by the wheel alone, without torch, which takes "
        f"{result['installed_bytes']['all'] / 1e6:.0f} MB of disk with all it needs.",
        *source(result),
    ]


def _folder_table(result: dict[str, Any]) -> list[str]:
    rows = [
        (
            f"{row['n_images']} {row['folder']}",
            f"`{row['model']}`, {row['engine']}",
            *(
                f"{row['images_per_s'][way]['median']:.0f}"
                for way in ("engine", "engine, several calls", *_WAYS)
            ),
            *(f"{row['part_of_engine'][way]['median']:.2f}" for way in _WAYS),
        )
        for row in result["rows"]
    ]
    headers = (
        *("folder", "model", "engine alone", "in several calls", *_WAYS),
        *(f"part, {way}" for way in _WAYS),
    )
    draft = result["jpeg_draft"]
    return [
        "Images a second. *Engine alone*: the same images, decoded beforehand, in one call at a "
        "time of two threads; *in several calls*: two at a time, of one thread each, as the "
        "command has it. The parts are of the latter. Engine, decoding and drawing share the two "
        "cores, which are full.",
        "",
        *table(headers, rows),
        "",
        f"JPEG's draft mode would decode in {draft['draft_s'] * 1e3:.0f} ms in place of "
        f"{draft['whole_s'] * 1e3:.0f}, and change maps by {draft['map_error']:.0%}: "
        "[it is not used](decisions/0005-whole-decoding.md).",
        *source(result),
    ]


def _serving_table(result: dict[str, Any]) -> list[str]:
    latency, throughput = result["latency"], result["throughput"]
    overload, memory = result["overload"], result["memory"]
    speeds = [
        throughput[f"images_per_s, {name}"]["median"]
        for name in ("service", "as the service", "all cores")
    ]
    statuses = overload["statuses"]
    (n_few, few), (n_many, many) = memory["resident_bytes"].items()
    rows = [
        ("one client that waits", "`padim serve`", _ms(latency["service_s"])),
        ("", "`Predictor.predict` of the same bytes", _ms(latency["predict_s"])),
        ("", "what is added", _ms(latency["added_s"])),
        ("16 clients", "`padim serve`", f"{speeds[0]:.0f} pictures/s"),
        ("", "`Predictor.stream`, decoded, as many threads", f"{speeds[1]:.0f} pictures/s"),
        ("", "`Predictor.stream`, decoded, all cores", f"{speeds[2]:.0f} pictures/s"),
        (
            f"twice what it can do, {overload['deadline_ms']} ms",
            "answered in time, not admitted",
            f"{statuses['200'] - overload['n_late']}, {statuses.get('503', 0)}",
        ),
        (
            "",
            "without an answer, late",
            f"{overload['n_unanswered']}, {overload['n_late']}",
        ),
        (
            "memory, a small model",
            f"after {int(n_few):,}, after {int(n_many):,} pictures",
            f"{few / 1e6:.0f} MB, {many / 1e6:.0f} MB",
        ),
    ]
    words = (
        "The default recipe as an ONNX graph. Pictures are PNG files of 300 px: they are decoded, "
        "and their regions found, besides what *One image, decoded* counts."
    )
    return [words, "", *table(("load", "what", "measured"), rows), *source(result)]


def _shards_table(result: dict[str, Any]) -> list[str]:
    seconds, merge = result["seconds"], result["merge"]
    rows = [
        (
            f"one process, two threads, {result['n_images']} images",
            _seconds(seconds["single"]),
        ),
        ("two shards at once, one thread each, merged", _seconds(seconds["shards"])),
        ("ratio", f"{result['shards of single']['median']:.2f}"),
        (
            "file of a shard, of the moments'",
            f"{result['shard_bytes'] / result['moments_bytes']:.2f}",
        ),
        (
            f"{result['n_merged']} first looks merged",
            f"{merge['seconds']:.1f} s, {merge['peak_bytes'] / 1e9:.2f} GB",
        ),
    ]
    return [*table(("fit with thresholds", "measured"), rows), *source(result)]


def _seconds(measured: dict[str, Any]) -> str:
    low, high = measured["iqr"]
    return f"{measured['median']:.1f} s ({low:.1f} to {high:.1f})"


def _processes_table(result: dict[str, Any]) -> list[str]:
    rows = [
        (
            row["engine"],
            row["set_up"],
            f"{row['alone_per_s']['median']:.0f}",
            f"{row['together_per_s']['median']:.0f}",
            f"{row['together_over_alone']['median']:.2f}",
        )
        for row in result["rows"]
    ]
    headers = ("engine", "threads set up", "one alone", "two together", "ratio")
    return ["Images a second.", "", *table(headers, rows), *source(result)]


def _fit_table(result: dict[str, Any]) -> list[str]:
    measured, cold = result["measured"], result["empty_cache"]

    def row(what: str, seconds: float, n_bytes: float) -> tuple[str, ...]:
        return what, f"{seconds:.1f} s", f"{n_bytes / 1e9:.2f} GB"

    def median(name: str) -> float:
        value: float = measured[name]["median"]
        return value

    rows = [
        row("padim, no threshold (`--no-calibrate`)", median("ours_s"), median("ours_bytes")),
        row("padim, with its threshold", median("calibrated_s"), median("calibrated_bytes")),
        row("padim, with its threshold, first fit of a size", cold["wall_s"], cold["peak_bytes"]),
        row("anomalib, fit and save alone", median("peer_fit_save_s"), median("peer_fit_bytes")),
        row("anomalib, with imports", median("peer_process_s"), median("peer_process_bytes")),
    ]
    return [
        f"{result['settings']['n_images']} images. The first fit of each network, size and choice "
        "of dimensions writes the network as a graph into the user's cache. That takes more time "
        "and memory, so its forecast is higher than that of the next fit.",
        "",
        *table(("command", "time", "peak memory"), rows),
        "",
        f"Model file: {result['model_bytes'] / 1e6:.0f} MB; anomalib's checkpoint: "
        f"{result['checkpoint_bytes'] / 1e6:.0f} MB.",
        *source(result),
    ]


def _beyond_table(result: dict[str, Any]) -> list[str]:
    rows = [(name, f"{value['median']:.2f} s") for name, value in result["seconds"].items()]
    over = {name: ratio["median"] for name, ratio in result["fit_over"].items()}
    return [
        f"{result['settings']['n_images']} images, without threshold. *trunk* is the truncated "
        "network in torch as its library builds it, on images that are decoded beforehand. The "
        f"whole fit takes {over['trunk']:.2f} times that, and {over['trunk, optimised']:.2f} times "
        "*trunk, optimised*, laid out as a fit in torch has it.",
        "",
        *table(("part", "time"), rows),
        *source(result),
    ]


def _memory_table(result: dict[str, Any]) -> list[str]:
    rows = [
        (
            str(row["n_images"]),
            f"{row['peak_bytes']['median'] / 1e9:.2f} GB",
            f"{row['forecast_bytes']['median'] / 1e9:.2f} GB",
            f"{row['all_embeddings_bytes_computed'] / 1e9:.1f} GB",
        )
        for row in result["rows"]
    ]
    headers = ("images", "peak", "forecast", "all embeddings at once, computed")
    return [*table(headers, rows), *source(result)]


def _head_table(result: dict[str, Any]) -> list[str]:
    rows = [
        (
            f"`{row['backbone']}`, {row['n_dims']} dimensions",
            str(row["n_images"]),
            f"{row['seconds']['dense']['median'] * 1e3:.1f} ms",
            f"{row['seconds']['shared']['median'] * 1e3:.1f} ms",
            f"{row['dense_over_shared']['median']:.1f}",
        )
        for row in result["rows"]
    ]
    headers = ("network, at 224 px", "images", "an inverse per place", "padim", "times faster")
    return [
        "From features to distances, beside the published script's product of an inverse for each "
        "place. Its embedding is given for free.",
        "",
        *table(headers, rows),
        *source(result),
    ]


def _bytes_table(result: dict[str, Any]) -> list[str]:
    rows = [
        (
            f"`{row['backbone']}`, {row['n_dims']} dimensions",
            f"{row['ours_float16_bytes'] / 1e6:.0f} MB",
            f"{row['ours_float32_bytes'] / 1e6:.0f} MB",
            f"{row['dense_float32_bytes'] / 1e6:.0f} MB",
            "yes" if row["computed"] else "no",
        )
        for row in result["rows"]
    ]
    headers = ("network, at 224 px", "float16", "float32", "means and inverses", "computed")
    return [
        "Without the network itself, beside the published script's means and inverses in float32.",
        "",
        *table(headers, rows),
        *source(result),
    ]


def _roi_table(result: dict[str, Any]) -> list[str]:
    rows = [
        (
            f"{row['part_of_sides']:g}",
            *(f"{_median(row[f'{name}_ratio']):.2f}" for name in ("file", "fit", "score")),
        )
        for row in result["rows"]
    ]
    headers = ("sides of the region", "file", "time of a fit", "time of a score")
    return ["As parts of those of the whole image.", "", *table(headers, rows), *source(result)]


def _networks_table(result: dict[str, Any]) -> list[str]:
    def times(network: dict[str, Any], engine: str, n_images: int) -> str:
        (row,) = (
            row
            for row in network["scoring"]
            if (row["engine"], row["n_images"]) == (engine, n_images)
        )
        return f"{row['seconds']['median'] / n_images * 1e3:.0f} ms"

    rows = []
    for network in result["networks"]:
        for title, engine, kind, file in (
            ("ONNX Runtime", "onnxruntime", "graph", ".onnx"),
            ("OpenVINO", "openvino float32", "", ".xml + .bin"),
            ("torch", "torch", "torch", "model file"),
        ):
            process = network["process"].get(kind)
            rows.append(
                (
                    network["backbone"],
                    title,
                    times(network, engine, 1),
                    times(network, engine, 16),
                    f"{process['seconds']['median']:.1f} s" if process else "",
                    f"{process['peak_bytes']['median'] / 1e9:.1f} GB" if process else "",
                    f"{network['file_bytes'][file] / 1e6:.0f} MB",
                )
            )
    headers = (
        *("network", "engine", "one image", "each of 16", "`padim predict`", "peak memory", "file"),
    )
    return [
        "With random weights, since those of the large networks could not be had; times do not "
        "depend on them. 256 px, the default recipe. The whole way from pixels to map and score; "
        "`padim predict` is a process that scores one picture.",
        "",
        *table(headers, rows),
        *source(result),
    ]


def _median(value: Any) -> float:
    number: float = value["median"] if isinstance(value, dict) else value
    return number


def _large_table(result: dict[str, Any]) -> list[str]:
    height, width = result["size_px"]
    rows = [
        (
            name,
            str(tiles["n_tiles"]),
            f"{tiles['fit_s']:.0f} s",
            f"{tiles['fit_peak_bytes'] / 1e9:.1f} GB",
            f"{tiles['forecast_peak_bytes'] / 1e9:.1f} GB",
            f"{tiles['file_bytes'] / 1e9:.1f} GB",
        )
        for name, tiles in (
            ("`--tile-px 512`", result["tiles_512"]),
            ("`--tile-px 768`", result["tiles_768"]),
        )
    ]
    headers = ("option", "tiles", "fit of 8 images", "peak memory", "forecast", "file")
    return [
        f"Images of {width} x {height} px. The whole at once would take "
        f"{result['whole_peak_bytes_computed'] / 1e9:.0f} GB (computed).",
        "",
        *table(headers, rows),
        "",
        "Spots on the borders of tiles score as spots inside do, to "
        f"{result['aims'][0]['value']:.1e} (median).",
        *source(result),
    ]


def _pictures_table(result: dict[str, Any]) -> list[str]:
    n_images = result["settings"]["n_images"]
    rows = [
        (name, f"{measured['median'] / n_images * 1e3:.0f} ms")
        for name, measured in result["measured_s"].items()
    ]
    return [
        f"{n_images} pictures of five panels.",
        "",
        *table(("drawn by", "an image"), rows),
        "",
        f"{result['times_faster']['median']:.1f} times faster than matplotlib, a figure for each "
        "image.",
        *source(result),
    ]
