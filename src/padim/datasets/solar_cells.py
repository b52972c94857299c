"""Real photographs of solar cells, laid out as a category."""

import csv
import importlib.util
import shutil
from pathlib import Path

from padim.errors import MissingExtraError, UnknownNameError

LICENCE = (
    "Photographs: elpv-dataset (Deitsch et al. 2019, Buerhop-Lutz et al. 2018), CC BY-NC-SA 4.0."
)


def lay_out_solar_cells(root: Path, cells: str) -> Path:
    """Copy the photographs of one cell type into the layout of MVTec AD.

    Cells of defect probability 0 are normal: sorted by name, every third is for testing. Cells of
    probability 1 are anomalous and all for testing. Those in between are left out.

    Returns:
        The category's folder, inside the root; one that is there already is left as it is.

    Raises:
        UnknownNameError: The cells are neither mono nor poly.
        MissingExtraError: The photographs are not installed.
    """
    if cells not in ("mono", "poly"):
        raise UnknownNameError("kind of solar cells", cells, ("mono", "poly"))
    found = importlib.util.find_spec("elpv_dataset")
    if found is None or found.origin is None:
        raise MissingExtraError("elpv-dataset", "demo")
    folder = root / f"solar_{cells}"
    if folder.is_dir():
        return folder
    data = Path(found.origin).parent / "data"
    with (data / "labels.csv").open(encoding="ascii") as file:
        labels = sorted(
            row for row in csv.reader(file, delimiter=" ", skipinitialspace=True) if row
        )
    normal, anomalous = (
        [name for name, chance, kind, *_ in labels if kind == cells and float(chance) == wanted]
        for wanted in (0, 1)
    )
    partial = root / f".{folder.name}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    for place, names in (
        ("train/good", [name for i, name in enumerate(normal) if i % 3 != 2]),
        ("test/good", normal[2::3]),
        ("test/anomalous", anomalous),
    ):
        (partial / place).mkdir(parents=True)
        for name in names:
            shutil.copyfile(data / name, partial / place / Path(name).name)
    partial.rename(folder)
    return folder
