"""The page of what a fit in shards would take on more machines, computed from what was measured."""

from typing import Any

from speed import load_result, source, table

_HEADERS = (
    "images",
    "workers",
    "compute",
    "own pictures",
    "all pictures",
    "merge",
    "efficiency",
)
_IMAGES, _WORKERS = (10**5, 10**7, 10**9), (8, 64, 1000)
_PICTURE_BYTES = 100e3
_LINK_BYTES_S = 1.25e9  # 10 Gbit/s, of each worker
_STORE_BYTES_S = 10e9  # of the store, to all workers together
_NAME_BYTES = 68  # of an image's sha256 in the header of a file
_MOST_HEADER_BYTES = 100e6  # as padim/tensors/reading.py has it
_REVIEW_BYTES = 32 * 32 * 4 + 48 * 48 + 64  # of an image in a file of scores: thumbnail, grey copy


def scale_page() -> str:
    """Bytes and seconds of a fit in shards, for more images and workers than were had."""
    result = load_result("cluster")
    look_s = 2 * result["seconds"]["single"]["median"] / (2 * result["n_images"])
    merge_s = result["merge"]["seconds"] / result["n_merged"]
    shard_mb = result["shard_bytes"] / 1e6
    rows = [
        _row(n_images, n_workers, look_s, merge_s) for n_images in _IMAGES for n_workers in _WORKERS
    ]
    return "\n".join(
        (
            "# More images than one machine can look at: a plan",
            "",
            "Written by `python docs/scripts/write_pages.py`. What is *measured* is from "
            "`benchmarks/results/cluster.json`: two workers, 600 images. What is *assumed* stands "
            "in the first table. All else is computed, for a fit [in shards]"
            "(howto/many-machines.md) as it is now. Nothing of that size was run.",
            "",
            "| what | value | |",
            "|---|---|---|",
            f"| a look at an image, one core | {1e3 * look_s:.0f} ms | measured, with solving |",
            f"| a shard read and added up | {1e3 * merge_s:.0f} ms, {shard_mb:.0f} MB | measured |",
            f"| a picture | {_PICTURE_BYTES / 1e3:.0f} kB | assumed |",
            f"| network of a worker | {_LINK_BYTES_S / 1e9:.2f} GB/s | assumed |",
            f"| store, to all workers together | {_STORE_BYTES_S / 1e9:.0f} GB/s | assumed |",
            *source(result),
            "",
            "## Two looks, one shard a worker",
            "",
            "*Compute*: both looks. *Own pictures*: what the looks read. *All pictures*: what each "
            "worker hashes at each look to know its own, without `--hashes`. *Merge*: all shards "
            "by one machine. *Efficiency*: compute over the sum, with `--hashes`; in brackets, "
            "without.",
            "",
            *table(_HEADERS, rows),
            "",
            "## Where it stops",
            "",
            "- **All read all**, without `--hashes`: reading grows with images times workers, and "
            f"takes as long as the looks at {_reading(look_s):.0f} workers, however many images "
            "there are. With the list, whoever stores the pictures hashes them once.",
            f"- **Names in the header.** A file names each image by its sha256, {_NAME_BYTES} "
            f"bytes in JSON, and a header has {_MOST_HEADER_BYTES / 1e6:.0f} MB at most: "
            f"{_MOST_HEADER_BYTES / _NAME_BYTES / 1e6:.1f} million images. What then: the hashes "
            "as a tensor, 32 bytes each, and a file of their own from 10^8 on.",
            "- **The review at the end.** The merge of second looks holds a thumbnail and a grey "
            f"copy of each image, {_REVIEW_BYTES / 1e3:.1f} kB: {_REVIEW_BYTES * 1e7 / 1e9:.0f} GB "
            "for 10^7 images. It looks for duplicates among those whose thumbnails lie near along "
            "one direction, which are still more with each image. What then: duplicates by a hash "
            "of the thumbnail, and pictures of the hottest alone.",
            "- **One machine merges.** That takes as long as the looks at "
            f"{_merging(1e5, look_s, merge_s):,.0f} workers for 10^5 images, and at "
            f"{_merging(1e7, look_s, merge_s):,.0f} for 10^7. What then: a few machines that merge "
            "some shards each, in a fixed order.",
            "- **The model does not grow.** Moments are as large for 10^9 images as for 2. A sum "
            "of 10^9 products in float64 is off by n 2^-53 at worst, 10^-7 of it.",
            "",
            "So: as it is, up to a million images on a hundred workers. Then the three changes "
            "above: names, review, merges.",
            "",
            *_describe_workers(load_result("spreading")),
            "",
            *_describe_store(load_result("remote")),
            "",
            *_describe_results(load_result("bulk")),
            "",
        )
    )


def _describe_workers(result: dict[str, Any]) -> list[str]:
    """What a cluster costs beside one process, and how much more it would do with more workers."""
    simulated, costs = result["simulated"], result["costs"]
    most, last_s = list(simulated["seconds"].items())[-1]
    lost_s = last_s - simulated["seconds"]["1"]
    review_s = costs["judge_s"] * int(most) * simulated["images_each"]
    rows = [
        (f"{int(n):,}", f"{int(n) * simulated['images_each']:,}", _show(seconds), f"{part:.0%}")
        for (n, seconds), part in zip(
            simulated["seconds"].items(), simulated["efficiency"].values(), strict=True
        )
    ]
    return [
        "## Workers of a cluster",
        "",
        f"`padim fit --cluster ray` on {result['n_images']} images, by two workers of one thread "
        f"each, took {result['ray of single']['median']:.2f} of the time of one process of two "
        "threads that computes the features twice as well (aim: 1.1).",
        "",
        "**Simulated**: pieces of work take as long as was measured, each worker takes the next, "
        "and the machine that asked takes what comes one after another. *Efficiency*: the time of "
        f"one worker with {simulated['images_each']:,} images over that of many with as many each "
        "(aim: 90% of 64 workers).",
        "",
        *table(("workers", "images", "time", "efficiency"), rows),
        *source(result),
        "",
        f"A piece: {1e3 * costs['first_s']:.0f} ms an image at the first look and "
        f"{1e3 * costs['second_s']:.0f} ms at the second, {costs['take_s']:.2f} s to take a "
        f"shard's file and {costs['merge_s']:.2f} s to add it, {1e3 * costs['judge_s']:.1f} ms an "
        f"image for the review at the end. Of the {lost_s:.0f} s that {most} workers wait, the "
        f"review by one machine is {review_s:.0f} s; most else is the last looks, which come at "
        "once and are added one after another.",
    ]


def _describe_store(result: dict[str, Any]) -> list[str]:
    """What a fit takes whose images are in an object store."""
    rows = [
        (
            name,
            _show(found["seconds"]["median"]),
            f"{found['peak_bytes']['median'] / 1e6:,.0f} MB",
            f"{max(found['most_files']['values']):.0f}",
        )
        for name, found in (
            ("a folder", result["fits"]["folder"]),
            ("an object store", result["fits"]["store"]),
        )
    ]
    return [
        "## Images in an object store",
        "",
        f"A fit on {result['n_images']:,} images of 150 x 150 px, at 128 px. The models have the "
        "same bytes. The store is a process of the same machine, so it takes cores from the fit, "
        "and no network is measured.",
        "",
        *table(("images in", "fit", "peak memory", "files of images written"), rows),
        *source(result),
    ]


def _describe_results(result: dict[str, Any]) -> list[str]:
    """What ``predict`` writes for a million images, and what reading it takes."""
    made = result["rows"]["made"]
    rows = [
        (
            name,
            _show(found["seconds"]["all"] - made["seconds"]["all"]),
            f"{found['bytes'] / 1e6:,.0f} MB",
            f"{(found['peak_bytes'] - made['peak_bytes']) / 1e6:,.0f} MB",
            f"{found['read']['seconds']['scores']:.1f} s",
            f"{found['read']['seconds']['all']:.0f} s",
        )
        for name, found in (
            ("`--parquet`", result["rows"]["parquet"]),
            ("CSV and JSON lines", result["rows"]["tables"]),
        )
    ]
    gigabytes = {
        one["format"]: one["bytes_a_map"] * result["settings"]["n_images"] / 1e9
        for one in result["maps"]
    }
    return [
        "## Results of a million images",
        "",
        "What [`padim predict`](howto/many-results.md) writes, measured with rows that are made "
        "up. *Memory*: what writing adds. *Scores*, *all*: what reading two columns, or "
        "everything, takes by one call.",
        "",
        *table(("rows", "written in", "on disk", "memory", "scores", "all"), rows),
        *source(result),
        "",
        f"Maps of 256 x 256 px, real ones, would take {gigabytes['8-bit counts, Zarr']:.0f} GB "
        f"with `--maps zarr`, where float16 in `.npy` would take "
        f"{gigabytes['float16, .npy']:.0f} GB. [Why so](decisions/0024-many-results.md).",
    ]


def _row(n_images: int, n_workers: int, look_s: float, merge_s: float) -> tuple[str, ...]:
    compute_s = 2 * n_images / n_workers * look_s
    own_s = 2 * n_images * _PICTURE_BYTES / min(n_workers * _LINK_BYTES_S, _STORE_BYTES_S)
    all_s = own_s * n_workers
    merging_s = 2 * n_workers * merge_s
    known = compute_s / (compute_s + own_s + merging_s)
    return (
        f"10^{len(str(n_images)) - 1}",
        f"{n_workers:,}",
        _show(compute_s),
        _show(own_s),
        _show(all_s),
        _show(merging_s),
        f"{known:.0%} ({compute_s / (compute_s + own_s + all_s + merging_s):.0%})",
    )


def _reading(look_s: float) -> float:
    """Workers at which reading all takes as long as the looks, the store being what bounds it."""
    return float((look_s * _STORE_BYTES_S / _PICTURE_BYTES) ** 0.5)


def _merging(n_images: float, look_s: float, merge_s: float) -> float:
    """Workers at which merging takes as long as the looks."""
    return float((n_images * look_s / merge_s) ** 0.5)


def _show(seconds: float) -> str:
    for unit, length in (("d", 86400.0), ("h", 3600.0), ("min", 60.0)):
        if seconds >= 2 * length:
            return f"{seconds / length:,.0f} {unit}"
    return f"{seconds:.0f} s"
