import numpy as np
import pytest
from PIL import Image

from padim.errors import UnknownNameError
from padim.images.heatmap import COLOURS, OUTLINE, colours_of, heatmap, overlay


def test_an_overlay_leaves_what_was_not_looked_at_alone() -> None:
    anomaly_map = np.zeros((8, 8), np.float32)
    anomaly_map[2:4, 2:4] = 1
    image = Image.new("L", (60, 40), 200)
    picture = np.asarray(overlay(image, anomaly_map, anomaly_map > 0, (0, 10, 40, 40)))
    assert picture.shape == (40, 60, 3)
    assert (picture[:, :10] == 200).all()
    assert (picture[:, 50:] == 200).all()
    assert (picture[30:, 10:50] == 200).all()  # the lowest score is transparent
    outlined = (picture == OUTLINE).all(axis=2)
    rows, columns = np.nonzero(outlined)
    assert 9 <= rows.min() < rows.max() <= 20
    assert 19 <= columns.min() < columns.max() <= 30
    hottest = 200 * 0.4 + COLOURS[255] * 0.6
    np.testing.assert_allclose(picture[15, 25], hottest, atol=3)


def test_the_default_colours_grow_lighter_and_jet_goes_from_blue_to_red() -> None:
    lightness = COLOURS @ np.array([0.299, 0.587, 0.114])  # luma, ITU-R BT.601
    assert (np.diff(lightness) > -1).all()
    assert lightness[-1] > lightness[0] + 200
    jet = colours_of("jet")
    assert jet[32].tolist() == [0, 0, 255]
    assert jet[223].tolist() == [255, 0, 0]
    drawn = heatmap(np.array([[2, 6]], np.float32), 2, 6, jet)
    np.testing.assert_array_equal(drawn, [[jet[0], jet[255]]])
    with pytest.raises(UnknownNameError, match=r"colormap 'jett'.*Did you mean 'jet'"):
        colours_of("jett")
