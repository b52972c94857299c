"""Write docs/gallery.md and its pictures: solar cells, found and missed.

``python docs/scripts/gallery.py`` takes a minute and the extra ``demo``. No other photographs than
those of elpv-dataset may be published so.
"""

import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image, ImageDraw, ImageFont

import padim
from padim.datasets import list_images
from padim.datasets.solar_cells import lay_out_solar_cells
from padim.images.heatmap import OUTLINE, heatmap, outline

DOCS = Path(__file__).parents[1]
PICTURES = DOCS / "images" / "gallery"
NOTICE = "Photograph: elpv-dataset (Deitsch et al. 2019, Buerhop-Lutz et al. 2018), CC BY-NC-SA 4.0"
KINDS: tuple[Literal["mono", "poly"], ...] = ("mono", "poly")
_WORDS = {"mono": "Monocrystalline cells", "poly": "Polycrystalline cells"}
_PANEL_PX = 256
_GAP_PX = 8
_FOOT_PX = 20
_LICENCE = "https://creativecommons.org/licenses/by-nc-sa/4.0/"


@dataclass(frozen=True)
class Shown:
    """A picture of the gallery.

    Attributes:
        what: What it shows, in words.
        name: Of its file.
        prediction: Of the image.
    """

    what: str
    name: str
    prediction: padim.Prediction


def write_gallery() -> None:
    """Fit on each kind of cell, choose images by their ranks, and write page and pictures."""
    PICTURES.mkdir(parents=True, exist_ok=True)
    lines = [
        "# Gallery",
        "",
        "Written by `python docs/scripts/gallery.py`: the default settings, fitted on the good "
        "cells for training. The images were chosen by the rank of their score among the test "
        "images, and by nothing else. Mistakes are among them. From left: photograph; map, with "
        "one scale for all cells of a kind, black being usual for good cells and white twice the "
        "pixel threshold; what lies above the pixel threshold.",
        "",
        "The photographs are from [elpv-dataset](https://github.com/zae-bayern/elpv-dataset) "
        f"(Deitsch et al. 2019, Buerhop-Lutz et al. 2018), [CC BY-NC-SA 4.0]({_LICENCE}). The "
        "pictures carry the same licence.",
    ]
    with tempfile.TemporaryDirectory() as folder:
        for kind in KINDS:
            category = lay_out_solar_cells(Path(folder), kind)
            model = padim.fit(category)
            lines += ["", f"## {_WORDS[kind]}"]
            chosen = choose(model, category, kind)
            usual = next(one.prediction for one in chosen if one.name.endswith("_good.jpg"))
            darkest = float(np.median(usual.anomaly_map))
            for shown in chosen:
                draw(shown.prediction, darkest).save(PICTURES / shown.name, quality=85)
                one = shown.prediction
                lines += [
                    "",
                    f"![{shown.what}](images/gallery/{shown.name})",
                    "",
                    f"*{shown.what}: score {one.score:.1f}, {one.label}, p-value "
                    f"{one.p_value:.2g}. {NOTICE}.*",
                ]
    (DOCS / "gallery.md").write_text("\n".join(lines) + "\n", encoding="utf-8", newline="\n")
    sys.stdout.write("Written: docs/gallery.md\n")


def choose(model: padim.Predictor, category: Path, kind: str) -> list[Shown]:
    """The most anomalous image, one in the middle, one that is missed, and good ones."""
    ranked = {
        place: sorted(
            model.stream(list_images(category / "test" / place)), key=lambda found: found.score
        )
        for place in ("anomalous", "good")
    }
    anomalous, good = ranked["anomalous"], ranked["good"]
    chosen = (
        ("defective", "The highest score of the defective cells", anomalous[-1]),
        ("median", "The middle one of the defective cells", anomalous[len(anomalous) // 2]),
        ("missed", "The lowest score of the defective cells", anomalous[0]),
        ("good", "The middle one of the good cells", good[len(good) // 2]),
        ("alarm", "The highest score of the good cells", good[-1]),
    )
    return [Shown(what, f"{kind}_{name}.jpg", found) for name, what, found in chosen]


def draw(prediction: padim.Prediction, usual: float) -> Image.Image:
    """Photograph, map and regions side by side, with the notice below.

    Args:
        prediction: Of a photograph.
        usual: Score of the darkest colour.
    """
    assert prediction.path is not None
    assert prediction.decision is not None
    image = Image.open(prediction.path).convert("RGB").resize((_PANEL_PX, _PANEL_PX))
    threshold = prediction.decision.pixel_threshold
    predicted = Image.fromarray(prediction.defects()[1]).resize(image.size)
    outlined = np.array(image)
    outlined[outline(np.asarray(predicted), 2)] = OUTLINE
    panels = (
        image,
        Image.fromarray(heatmap(prediction.anomaly_map, usual, 2 * threshold)).resize(image.size),
        Image.fromarray(outlined),
    )
    width = len(panels) * (_PANEL_PX + _GAP_PX) - _GAP_PX
    picture = Image.new("RGB", (width, _PANEL_PX + _FOOT_PX), "white")
    for i, panel in enumerate(panels):
        picture.paste(panel, (i * (_PANEL_PX + _GAP_PX), 0))
    pen = ImageDraw.Draw(picture)
    pen.text((2, _PANEL_PX + 3), NOTICE, fill="black", font=ImageFont.load_default(13))
    return picture


if __name__ == "__main__":
    write_gallery()
