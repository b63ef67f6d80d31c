"""Raster formats of geography that only GDAL reads (ERDAS Imagine, NITF), through rasterio: extra ``geo``."""

import numpy as np

from firstlight._extras import require
from firstlight.errors import FirstlightError
from firstlight.sources.picture import Picture, Policy, Unreadable, check_size, excluding, from_array

MAGIC = (b"EHFA_HEADER_TAG", b"NITF", b"NSIF")


def decode(data: bytes, policy: Policy) -> Picture:
    """All bands of the raster; pixels that its own mask or nodata value leaves out are excluded."""
    try:
        memory_file = require("rasterio.io", extra="geo").MemoryFile
    except FirstlightError as error:
        raise Unreadable(f"{error.cause}: {error.way_out}") from None
    with memory_file(data) as memory, memory.open() as raster:
        check_size(raster.height, raster.width)
        picture = from_array(np.moveaxis(raster.read(), 0, 2), policy, f"{raster.driver} {raster.count} bands")
        shown = np.moveaxis(raster.read_masks(), 0, 2) > 0
        for nodata in {value for value in raster.nodatavals if value is not None}:
            picture = excluding(picture, nodata)
    if shown.all():
        return picture
    valid = shown if picture.valid is None else picture.valid & shown
    return Picture(picture.pixels, picture.mode, picture.size, valid, picture.remarks)
