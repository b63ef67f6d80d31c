"""Arrays of numbers → encoded pictures small enough to stand inside a page."""

import io
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from firstlight.report.document import Picture

# Longest side of an embedded picture. 12 of them at JPEG quality 85 stay below 200 KB.
_LONGEST = 256


def thumbnail(pixels: NDArray[Any], caption: str, longest: int = _LONGEST) -> Picture:
    """An image H×W×C as a picture: uint8 and uint16 by their full scale, floats by their own range.

    Two channels and more than three are shown by their first one or three.
    """
    shown = _displayable(pixels)
    image = Image.fromarray(shown[..., 0] if shown.shape[2] == 1 else shown)
    small = max(image.size) <= 64
    image.thumbnail((longest, longest))
    file = io.BytesIO()
    if small:
        image.save(file, "PNG")
        return Picture(file.getvalue(), "image/png", caption, pixelated=True)
    image.save(file, "JPEG", quality=85)
    return Picture(file.getvalue(), "image/jpeg", caption)


def _displayable(pixels: NDArray[Any]) -> NDArray[np.uint8]:
    channels = pixels.shape[2]
    pixels = pixels[..., :3] if channels >= 3 else pixels[..., :1]
    if pixels.dtype == np.uint8:
        return np.ascontiguousarray(pixels)
    if pixels.dtype == np.uint16:
        return np.ascontiguousarray((pixels // 257).astype(np.uint8))
    finite = pixels[np.isfinite(pixels)]
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0)
    scaled = (np.nan_to_num(pixels, nan=low, posinf=high, neginf=low) - low) / ((high - low) or 1.0)
    return np.ascontiguousarray(np.rint(255 * scaled).astype(np.uint8))
