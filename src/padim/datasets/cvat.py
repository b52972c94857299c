"""CVAT for images 1.1: one XML file for many images."""

from collections.abc import Iterator
from xml.etree import ElementTree as ET

from padim.datasets.shapes import (
    AnnotatedImage,
    Outline,
    Runs,
    box_points,
    ellipse_points,
    is_defect,
    make_outline,
    make_runs,
    rotate,
)


def parse_cvat(text: bytes) -> list[AnnotatedImage] | None:
    """Parse an export of CVAT: the images, with what is a defect in them.

    Returns:
        None if it is XML of another kind.

    Raises:
        ValueError: It is no XML in UTF-8, has a document type (which may define names that grow
            without end), or a shape is not as it must be.

    Source:
        https://docs.cvat.ai/docs/manual/advanced/formats/format-cvat/
    """
    document = text.decode("utf-8-sig")
    if "<!DOCTYPE" in document or "<!ENTITY" in document:
        raise ValueError("it has a document type, which an export does not")
    try:
        root = ET.fromstring(document)  # as text, so that no encoding it names counts
    except ET.ParseError as error:
        raise ValueError(f"it is no XML ({error})") from error
    if root.tag != "annotations":
        return None
    images = [_convert(image) for image in root.iter("image")]
    if not images and root.find("track") is not None:
        raise ValueError("it has tracks of a video, but not the images that they are in")
    return images


def _convert(image: ET.Element) -> AnnotatedImage:
    width, height = (int(_take(image, side)) for side in ("width", "height"))
    shapes = [
        shape
        for element in image
        if element.tag not in ("tag", "attribute") and is_defect(element.get("label", ""))
        for shape in _list_shapes(element, (height, width))
    ]
    return AnnotatedImage(_take(image, "name"), (height, width), tuple(shapes))


def _list_shapes(element: ET.Element, size_px: tuple[int, int]) -> Iterator[Outline | Runs]:
    degrees = float(element.get("rotation", "0"))
    if element.tag == "box":
        left, top, right, bottom = (_number(element, key) for key in ("xtl", "ytl", "xbr", "ybr"))
        centre = ((left + right) / 2, (top + bottom) / 2)
        yield make_outline(rotate(box_points(left, top, right, bottom), centre, degrees), size_px)
    elif element.tag == "ellipse":
        x, y, x_radius, y_radius = (_number(element, key) for key in ("cx", "cy", "rx", "ry"))
        points = ellipse_points((x, y), (x_radius, y_radius))
        yield make_outline(rotate(points, (x, y), degrees), size_px)
    elif element.tag == "polygon":
        yield make_outline(_list_points(element), size_px)
    elif element.tag == "polyline":
        yield make_outline(_list_points(element), size_px, is_closed=False)
    elif element.tag == "points":
        points = _list_points(element)
        for i in range(0, len(points), 2):
            yield make_outline(points[i : i + 2], size_px)
    elif element.tag == "mask":
        top, left, height, width = (
            int(_take(element, key)) for key in ("top", "left", "height", "width")
        )
        if min(left, top) < 0 or left + width > size_px[1] or top + height > size_px[0]:
            raise ValueError("a mask reaches beyond its image")
        lengths = [int(length) for length in _take(element, "rle").split(",")]
        yield make_runs((height, width), lengths, (top, left))
    else:
        raise ValueError(f"a shape is a {element.tag}, which is not known")


def _list_points(element: ET.Element) -> list[float]:
    """The points of a shape: x and y in turn."""
    pairs = (pair.split(",") for pair in _take(element, "points").split(";"))
    return [float(number) for x, y in pairs for number in (x, y)]


def _number(element: ET.Element, key: str) -> float:
    return float(_take(element, key))


def _take(element: ET.Element, key: str) -> str:
    found = element.get(key)
    if found is None:
        raise ValueError(f"<{element.tag}> has no {key}")
    return found
