"""TIFF: 8-bit photographs through Pillow like any other, deep, float and many-band rasters through tifffile."""

import io
import logging
from typing import Any

import numpy as np
import tifffile
from PIL import Image

from firstlight.sources.picture import (
    ORIENTATION_TAG,
    Picture,
    Policy,
    Unreadable,
    check_size,
    excluding,
    from_array,
    from_pillow,
    turned,
    with_alpha,
)

_GDAL_NODATA = 42113

# What tifffile has to say about damaged files is said by the quarantine list; by default it would go to stderr.
logging.getLogger("tifffile").addHandler(logging.NullHandler())


def decode(data: bytes, policy: Policy) -> Picture:
    """The first page of a TIFF. A nodata value that the file declares (GDAL's tag) is excluded."""
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        page = file.pages.first
        check_size(page.imagelength, page.imagewidth)
        remarks = ("several pages: only the first is counted",) if len(file.pages) > 1 else ()
        nodata = _declared_nodata(page)
        tag = page.tags.get(ORIENTATION_TAG)
        orientation = 1 if tag is None else tag.value
        if nodata is None and _is_photograph(page):
            if orientation != 1:  # Pillow would turn a TIFF without being asked
                upright = (1).to_bytes(2, "little" if file.byteorder == "<" else "big")
                data = data[: tag.valueoffset] + upright + data[tag.valueoffset + 2 :]
            with Image.open(io.BytesIO(data)) as image:
                picture = from_pillow(image, policy)
        else:
            picture = excluding(_decode_raster(page, policy), nodata)
    # Pillow calls a TIFF of several pages animated; one remark is enough.
    kept = tuple(r for r in picture.remarks if not (remarks and r.startswith("animated")))
    picture = Picture(picture.pixels, picture.mode, picture.size, picture.valid, remarks + kept)
    return turned(picture, orientation) if policy.orientation else picture


def _is_photograph(page: Any) -> bool:
    return page.bitspersample in (1, 8) and page.samplesperpixel <= 4 and page.sampleformat in (1, None)


def _declared_nodata(page: Any) -> float | None:
    tag = page.tags.get(_GDAL_NODATA)
    if tag is None:
        return None
    try:
        return float(str(tag.value).strip("\0 "))
    except ValueError:
        raise Unreadable(f"its nodata tag {tag.value!r} is not a number") from None


def _decode_raster(page: Any, policy: Policy) -> Picture:
    pixels = page.asarray()
    axes = page.axes  # such as "YX", "YXS", "SYX"
    if "S" in axes and not axes.endswith("S"):
        pixels = np.moveaxis(pixels, axes.index("S"), -1)
    pixels = pixels.reshape(page.imagelength, page.imagewidth, -1)
    bands = pixels.shape[2]
    if page.photometric == tifffile.PHOTOMETRIC.MINISWHITE and pixels.dtype.kind == "u":
        pixels = np.iinfo(pixels.dtype).max - pixels
    depth = f"{pixels.dtype.itemsize * 8}-bit" if pixels.dtype.kind != "f" else "float"
    names = {1: "gray", 3: "RGB"} if page.photometric == tifffile.PHOTOMETRIC.RGB else {1: "gray"}
    alpha = {1, 2} & set(page.extrasamples) and bands in (2, 4)
    if alpha and pixels.dtype in (np.uint8, np.uint16):
        mode = f"{depth} {'gray' if bands == 2 else 'RGB'} with alpha"
        return excluding(with_alpha(pixels[..., :-1], pixels[..., -1], mode, policy), policy.nodata)
    return from_array(pixels, policy, f"{depth} {names.get(bands, f'{bands} bands')}")
