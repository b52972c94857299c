"""The figures that the original script published on MVTec AD, and how far a benchmark is off."""

from padim.errors import format_count
from padim.evaluation.run_folder import Results, format_table
from padim.metrics.table import format_metric

TOLERANCE = 0.005

# Image level, then pixel level, in the order of _COLUMNS.
# Source: README of the PaDiM-EfficientNet script, its table of ROC AUC on MVTec AD.
_COLUMNS = (
    ("resnet18", 100),
    ("wide_resnet50_2", 550),
    ("efficientnet_b7_ns", None),
    ("efficientnet_v2_m", None),
)
_FIGURES = {
    "carpet": ((0.984, 0.999, 1.0, 1.0), (0.988, 0.990, 0.984, 0.987)),
    "grid": ((0.898, 0.957, 0.997, 0.964), (0.936, 0.965, 0.967, 0.981)),
    "leather": ((0.988, 1.0, 1.0, 1.0), (0.990, 0.989, 0.986, 0.991)),
    "tile": ((0.959, 0.974, 0.991, 0.981), (0.917, 0.939, 0.923, 0.936)),
    "wood": ((0.990, 0.988, 0.995, 0.991), (0.940, 0.941, 0.928, 0.944)),
    "bottle": ((0.996, 0.998, 1.0, 1.0), (0.981, 0.982, 0.971, 0.984)),
    "cable": ((0.855, 0.922, 0.961, 0.951), (0.949, 0.968, 0.973, 0.970)),
    "capsule": ((0.870, 0.915, 0.913, 0.916), (0.982, 0.986, 0.979, 0.983)),
    "hazelnut": ((0.841, 0.933, 0.960, 0.775), (0.979, 0.979, 0.977, 0.963)),
    "metal_nut": ((0.974, 0.992, 0.988, 0.994), (0.967, 0.971, 0.954, 0.959)),
    "pill": ((0.869, 0.944, 0.974, 0.984), (0.946, 0.961, 0.944, 0.959)),
    "screw": ((0.745, 0.844, 0.956, 0.813), (0.972, 0.983, 0.989, 0.982)),
    "toothbrush": ((0.947, 0.972, 0.981, 0.931), (0.986, 0.987, 0.979, 0.986)),
    "transistor": ((0.925, 0.978, 0.999, 0.994), (0.968, 0.975, 0.981, 0.960)),
    "zipper": ((0.741, 0.909, 0.946, 0.942), (0.976, 0.984, 0.968, 0.982)),
}
MEANS = {
    "texture": ((0.964, 0.984, 0.997, 0.987), (0.953, 0.965, 0.958, 0.968)),
    "object": ((0.876, 0.941, 0.968, 0.930), (0.971, 0.978, 0.972, 0.973)),
    "all": ((0.905, 0.955, 0.977, 0.949), (0.965, 0.973, 0.967, 0.971)),
}


def find_published(backbone: str, n_dims: int, category: str) -> tuple[float, float] | None:
    """Image- and pixel-level ROC AUC of a category, or of a group's mean; None without one."""
    figures = _FIGURES.get(category) or MEANS.get(category)
    for i, (name, drawn) in enumerate(_COLUMNS):
        if figures is not None and name == backbone and drawn in (None, n_dims):
            image, pixel = figures
            return image[i], pixel[i]
    return None


def describe_differences(results: Results) -> str:
    """A table of what a benchmark gives, what was published, and where they are apart."""
    settings, rows, n_off, n_known = results.settings, [], 0, 0
    for line in results.lines():
        name = line.group or line.name
        known = None
        if settings["recipe"] == "reference":
            known = find_published(settings["backbone"], settings["n_dims"], name)
        cells = [name]
        for kind, figure in zip(("image", "pixel"), known or (None, None), strict=True):
            value, words = line.metrics[f"{kind}_auroc"], "n/a"
            if figure is not None and value is not None:
                is_off = abs(value - figure) > TOLERANCE
                n_known, n_off = n_known + 1, n_off + is_off
                words = f"{value - figure:+.3f}" + " **off**" * is_off
            cells += [format_metric(value), format_metric(figure), words]
        rows.append(cells)
    header = ("category", "image", "published", "difference", "pixel", "published", "difference")
    if n_known:
        summary = f"Off by more than {TOLERANCE}: {n_off} of {format_count(n_known, 'figure')}."
    else:
        columns = ", ".join(
            name if drawn is None else f"{name} with --dims {drawn}" for name, drawn in _COLUMNS
        )
        summary = (
            "Nothing was published for these settings. With --recipe reference, there is "
            f"{columns}."
        )
    return f"### Against the published figures\n\n{format_table(header, rows)}\n\n{summary}"
