"""Bytes → `Picture`. The content decides, not the file name; what cannot be decoded whole raises `Unreadable`.

JPEG goes through simplejpeg (libjpeg-turbo, accurate DCT and upsampling: the pixels Pillow and torchvision
give), 16-bit PNG and JPEG 2000 through imagecodecs, TIFF with more than 8 bits or 4 bands through tifffile,
everything else through Pillow. No decoder is asked to go on after an error: a truncated image that is filled
up with gray would move the mean.
"""

import io
import os
import struct
from dataclasses import replace
from functools import cache
from importlib.metadata import version
from typing import Any

import numpy as np
import simplejpeg
from PIL import Image, UnidentifiedImageError

from firstlight.sources import geo, tiff
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

_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_JPEG2000 = (b"\0\0\0\x0cjP  ", b"\xffO\xffQ")


def decode(sample: Any, policy: Policy) -> Picture:
    """One sample of a source as a `Picture`.

    Args:
        sample: the bytes of an encoded image, an array (H×W or H×W×C), a torch tensor (C×H×W or H×W), a
            Pillow image, a path, or a tuple or dict that holds one of them first (or as "image").

    Raises:
        Unreadable: with the reason, in words for the quarantine list.
    """
    try:
        return _decode(sample, policy)
    except Unreadable:
        raise
    except (FileNotFoundError, PermissionError) as error:
        raise Unreadable(f"cannot be read: {error.strerror}") from None
    except UnidentifiedImageError:
        raise Unreadable("not an image: its first bytes fit no known format") from None
    except (LookupError, struct.error):
        raise Unreadable("damaged: its header is incomplete") from None
    except Exception as error:
        message = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise Unreadable(f"cannot be decoded: {message}") from error


@cache
def decoder_versions() -> str:
    """The libraries that decode, with versions: pixels of a lossy format depend on them."""
    return ", ".join(f"{name} {version(name)}" for name in ("simplejpeg", "pillow", "tifffile", "imagecodecs"))


def _decode(sample: Any, policy: Policy) -> Picture:
    if isinstance(sample, (bytes, bytearray, memoryview)):
        return _decode_bytes(bytes(sample), policy)
    if isinstance(sample, Image.Image):
        return from_pillow(sample, policy)
    if isinstance(sample, np.ndarray):
        return from_array(sample, policy)
    if hasattr(sample, "detach") and hasattr(sample, "numpy"):  # a torch tensor, without importing torch
        array = sample.detach().cpu().numpy()
        return from_array(np.moveaxis(array, 0, 2) if array.ndim == 3 else array, policy)
    if isinstance(sample, dict):
        for key in ("image", "img", "pixel_values", "jpg", "png"):
            if key in sample:
                return _decode(sample[key], policy)
        raise Unreadable(f"a dict without an image (keys {', '.join(map(str, sample))})")
    if isinstance(sample, (tuple, list)) and len(sample):
        return _decode(sample[0], policy)
    if isinstance(sample, (str, os.PathLike)):
        with open(sample, "rb") as file:
            return _decode_bytes(file.read(), policy)
    raise Unreadable(f"a {type(sample).__name__} is not an image")


def _decode_bytes(data: bytes, policy: Policy) -> Picture:
    if not data:
        raise Unreadable("the file is empty (0 bytes)")
    if data.startswith(b"\xff\xd8\xff"):
        return _decode_jpeg(data, policy)
    if data.startswith(b"\x89PNG\r\n\x1a\n") and data[24:25] == b"\x10":
        picture = _decode_deep(data, "png", policy)
        return turned(picture, _exif_orientation(data)) if policy.orientation else picture
    if data.startswith(_JPEG2000):
        return _decode_deep(data, "jpeg2k", policy)
    if data.startswith(_TIFF):
        return tiff.decode(data, policy)
    if data.startswith(geo.MAGIC):
        return geo.decode(data, policy)
    if data.startswith(b"\x93NUMPY"):
        return from_array(np.load(io.BytesIO(data), allow_pickle=False), policy)
    if not any(data):
        raise Unreadable(f"all {len(data)} bytes are zero")
    return _decode_with_pillow(data, policy)


def _decode_jpeg(data: bytes, policy: Policy) -> Picture:
    try:
        height, width, colour, _ = simplejpeg.decode_jpeg_header(data)
    except ValueError as error:
        return _decode_unusual_jpeg(data, policy, error)
    check_size(height, width)
    if colour in ("CMYK", "YCCK") or (policy.orientation and _exif_orientation(data) != 1):
        return _decode_with_pillow(data, policy)
    gray = colour == "Gray"
    try:
        pixels = simplejpeg.decode_jpeg(data, "GRAY" if gray else "RGB", fastdct=False, fastupsample=False)
    except ValueError as error:
        return _decode_unusual_jpeg(data, policy, error)
    return excluding(Picture(pixels, "L" if gray else "RGB", (height, width)), policy.nodata)


def _decode_unusual_jpeg(data: bytes, policy: Policy, error: ValueError) -> Picture:
    """Stray bytes between two segments and rare chroma subsampling: simplejpeg gives up with `error`, yet no pixel
    is harmed. Pillow decodes them, and refuses truncated files just as strictly."""
    stray = "extraneous bytes" in str(error)
    if not stray and "subsampling" not in str(error):
        raise error
    try:
        picture = _decode_with_pillow(data, policy)
    except UnidentifiedImageError:
        raise Unreadable("damaged: its JPEG header is incomplete") from None
    remarks = ("stray bytes between JPEG segments skipped",) if stray else ()
    return replace(picture, remarks=picture.remarks + remarks)


def _decode_deep(data: bytes, codec: str, policy: Policy) -> Picture:
    """PNG with 16 bits per channel, and JPEG 2000 of any depth, which Pillow would narrow to 8 bits."""
    import imagecodecs

    # Width and height, big-endian: at byte 16 in PNG's IHDR, 8 bytes behind JPEG 2000's SOC and SIZ markers.
    at = 16 if codec == "png" else data.find(b"\xff\x4f\xff\x51") + 8
    check_size(int.from_bytes(data[at + 4 : at + 8], "big"), int.from_bytes(data[at : at + 4], "big"))
    pixels = getattr(imagecodecs, f"{codec}_decode")(data)
    pixels = pixels[..., None] if pixels.ndim == 2 else pixels
    bits = pixels.dtype.itemsize * 8
    if pixels.shape[2] in (2, 4):
        mode = f"{bits}-bit {'gray' if pixels.shape[2] == 2 else 'RGB'} with alpha"
        return excluding(with_alpha(pixels[..., :-1], pixels[..., -1], mode, policy), policy.nodata)
    return from_array(pixels, policy, f"{bits}-bit {'gray' if pixels.shape[2] == 1 else 'RGB'}")


def _decode_with_pillow(data: bytes, policy: Policy) -> Picture:
    with Image.open(io.BytesIO(data)) as image:
        return from_pillow(image, policy)


def _exif_orientation(data: bytes) -> int:
    with Image.open(io.BytesIO(data)) as image:
        return int(image.getexif().get(ORIENTATION_TAG, 1))
