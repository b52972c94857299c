"""Which page of an image file is read: the only one, or the one that was chosen."""

from pathlib import Path

from PIL import Image

from padim.errors import ImageReadError

SEVERAL = "it has several pages or frames; fit with --page to choose one, or save it alone"
_SUBFILE_TYPE = 254  # TIFF 6.0: bit 0 is a smaller copy of another page, bit 2 a mask
_NO_PAGE = 1 | 4
_LOOKED_AT = 16  # pages; beyond that many, some are no copies
_MULTI_PICTURE = 0xB002  # the entries of the CIPA DC-007 index of a JPEG


def choose_page(image: Image.Image, page: int | None, name: Path | str) -> None:
    """Go to a page of an image, from 1; to the only one when None.

    Smaller copies of a picture, as cameras and scanners add them, are no pages.

    Raises:
        ImageReadError: There is no such page, or there are several.
    """
    if page is None:
        if _has_several(image):
            raise ImageReadError(name, SEVERAL)
        return
    try:
        image.seek(page - 1)
    except EOFError as error:
        raise ImageReadError(
            name, f"it has no page {page}; fit with another --page, or save the page alone"
        ) from error


def is_page(subfile_type: int) -> bool:
    """Whether a directory of a TIFF is a picture of its own, by its tag NewSubfileType."""
    return not subfile_type & _NO_PAGE


def _has_several(image: Image.Image) -> bool:
    if not getattr(image, "is_animated", False):
        return False
    if image.format == "MPO":
        entries = getattr(image, "mpinfo", {}).get(_MULTI_PICTURE, ())
        return any(str(entry["Attribute"]["MPType"]).startswith("Multi") for entry in entries)
    if image.format != "TIFF":
        return True
    try:
        for frame in range(1, _LOOKED_AT):
            image.seek(frame)
            if is_page(image.tag_v2.get(_SUBFILE_TYPE, 0)):  # type: ignore[attr-defined]  # of a TIFF
                return True
    except EOFError:
        image.seek(0)
        return False
    except SyntaxError:  # a page that Pillow does not read
        return True
    return True
