from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import padim
from padim.errors import ImageReadError, UsageError
from padim.fitting.config import choices_of
from padim.images.facts import ImageFacts
from padim.images.reading import Reading


def test_a_fit_reads_the_page_and_the_white_that_its_model_keeps(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    for i in range(3):
        second = generator.integers(500, 3000, (64, 64), dtype=np.uint16)
        pages = [Image.fromarray(page) for page in (second // 2, second)]
        pages[0].save(tmp_path / f"{i}.tif", save_all=True, append_images=pages[1:])
        pages[1].save(tmp_path / f"{i}_second.png")
    paths = [tmp_path / f"{i}.tif" for i in range(3)]
    with pytest.raises(ImageReadError, match="fit with --page to choose one"):
        padim.fit(paths, size_px=(64, 64))

    model = padim.fit(paths, size_px=(64, 64), page=2, white="auto")

    assert model.preprocess.reading == Reading(white=4095, page=2)
    assert isinstance(model.state.images, ImageFacts)
    assert (model.state.images.kinds, model.state.images.highest) == (("16-bit grey",), 2999)
    choices = choices_of(model.state)
    assert (choices["white"], choices["page"]) == (4095, 2)
    model.save(tmp_path / "a")
    found = padim.load(tmp_path / "a").predict(paths[0])
    assert found.score == model.predict(paths[0]).score
    assert found.differences == ()
    with Image.open(tmp_path / "0_second.png") as image:
        assert model.predict(image).score == found.score


def test_white_is_not_found_of_what_can_be_seen_once_only() -> None:
    with pytest.raises(UsageError, match="an iterator, but white is found by looking at all"):
        padim.fit(iter([Image.new("L", (64, 64))]), size_px=(64, 64), white="auto")  # type: ignore[arg-type]  # an iterator
