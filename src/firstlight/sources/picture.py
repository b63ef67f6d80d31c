"""A decoded image, and the one rule for what its stored mode becomes."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from firstlight._typing import Pixels, Valid

MAX_PIXELS = 178_956_970
"""Height × width above which a file is taken for a decompression bomb (the limit of Pillow)."""

ORIENTATION_TAG = 0x0112


_TURNS: dict[int, Callable[[NDArray[Any]], NDArray[Any]]] = {
    2: np.fliplr,
    3: lambda pixels: np.rot90(pixels, 2),
    4: np.flipud,
    5: lambda pixels: pixels.swapaxes(0, 1),
    6: lambda pixels: np.rot90(pixels, -1),
    7: lambda pixels: np.rot90(pixels, 2).swapaxes(0, 1),
    8: lambda pixels: np.rot90(pixels, 1),
}


class Unreadable(Exception):
    """Why a sample cannot be counted. Never leaves a scan: it becomes an entry of the quarantine list."""


@dataclass(frozen=True)
class Policy:
    """Choices where a stored image does not say by itself what its pixels are.

    Attributes:
        alpha: "mask" leaves fully transparent pixels out of every statistic, "drop" ignores alpha (as PIL's
            ``convert("RGB")`` does, hidden colours included), "composite #rrggbb" blends onto a colour.
        orientation: apply the EXIF orientation; by default pixels stay as stored.
        nodata: value that means "no measurement", besides the one a file declares itself.
    """

    alpha: str = "mask"
    orientation: bool = False
    nodata: float | None = None


@dataclass(frozen=True, eq=False)
class Picture:
    """One image ready to be counted.

    Attributes:
        pixels: H×W×C: uint8, uint16, or floats as they are.
        mode: how it was stored ("RGB", "L", "CMYK", "16-bit gray", …).
        size: height and width as stored.
        valid: H×W×C, False where a value takes no part; None when all do.
        remarks: what was done to it that a user should know.
    """

    pixels: Pixels
    mode: str
    size: tuple[int, int]
    valid: Valid | None = None
    remarks: tuple[str, ...] = ()


def check_size(height: int, width: int) -> None:
    """Refuse empty images and decompression bombs before their pixels are allocated."""
    if height * width > MAX_PIXELS:
        raise Unreadable(f"{height}×{width} pixels: larger than any photograph, taken for a decompression bomb")
    if height * width == 0:
        raise Unreadable(f"no pixels ({height}×{width})")


def from_array(array: Any, policy: Policy, mode: str = "") -> Picture:
    """The mode policy for arrays: H×W or H×W×C; booleans become 0 and 255, other integers are taken as they are."""
    hidden = np.ma.getmaskarray(array) if isinstance(array, np.ma.MaskedArray) else None
    pixels = np.ma.getdata(array) if hidden is not None else np.asarray(array)
    if pixels.dtype.kind not in "buif":
        raise Unreadable(f"values of type {pixels.dtype} are not pixels")
    if pixels.ndim not in (2, 3):
        raise Unreadable(f"shape {pixels.shape} is not H×W or H×W×C")
    check_size(*pixels.shape[:2])
    if not pixels.dtype.isnative:
        pixels = pixels.astype(pixels.dtype.newbyteorder("="))
    label = mode or f"{pixels.dtype} array"
    remarks: tuple[str, ...] = ()
    if pixels.dtype == bool:
        pixels = pixels.astype(np.uint8) * np.uint8(255)
    elif pixels.dtype.kind in "ui" and pixels.dtype not in (np.uint8, np.uint16):
        remarks = (f"{pixels.dtype} values taken as they are, not scaled",)
        pixels = pixels.astype(np.float64)
    pixels = pixels[..., None] if pixels.ndim == 2 else pixels
    if pixels.shape[2] == 0:
        raise Unreadable(f"no channels (shape {pixels.shape})")
    valid = None if hidden is None else ~hidden.reshape(pixels.shape)
    return excluding(Picture(pixels, label, pixels.shape[:2], valid, remarks), policy.nodata)


def from_pillow(image: Image.Image, policy: Policy) -> Picture:
    """The mode policy for Pillow's modes; see the table in docs/sources.md, which this function is.

    Gray stays one channel; palettes, CMYK, YCbCr, LAB and HSV become RGB; 16-bit gray stays 16-bit.
    """
    check_size(image.height, image.width)
    mode, size = image.mode, (image.height, image.width)
    remarks: tuple[str, ...] = ()
    if getattr(image, "is_animated", False):
        remarks = ("animated: only the first frame is counted",)
    if policy.orientation and image.getexif().get(ORIENTATION_TAG, 1) != 1:
        image.load()
        image = _transposed(image)
        remarks += ("EXIF orientation applied",)
    if mode.startswith("I;16") or (mode == "I" and image.format == "PPM"):
        pixels = np.array(image, np.uint16)[..., None]
        return excluding(Picture(pixels, "16-bit gray", size, None, remarks), policy.nodata)
    if mode in ("I", "F"):
        picture = from_array(np.array(image), policy, {"I": "32-bit gray", "F": "float gray"}[mode])
        return Picture(picture.pixels, picture.mode, size, picture.valid, remarks + picture.remarks)
    if image.has_transparency_data:
        gray = mode in ("L", "LA", "La", "1")
        stacked = np.array(image.convert("LA" if gray else "RGBA"))
        picture = with_alpha(stacked[..., :-1], stacked[..., -1], mode, policy)
        picture = Picture(picture.pixels, mode, size, picture.valid, remarks + picture.remarks)
        return excluding(picture, policy.nodata)
    target = "L" if mode in ("1", "L") else "RGB"
    pixels = np.array(image if mode == target else image.convert(target))
    pixels = pixels[..., None] if pixels.ndim == 2 else pixels
    return excluding(Picture(pixels, mode, size, None, remarks), policy.nodata)


def with_alpha(colour: NDArray[Any], alpha: NDArray[Any], mode: str, policy: Policy) -> Picture:
    """Colour H×W×C and alpha H×W of the same dtype, by the alpha policy. Opaque images need none."""
    size = colour.shape[:2]
    opaque = np.iinfo(alpha.dtype).max
    if (alpha == opaque).all():
        return Picture(np.ascontiguousarray(colour), mode, size)
    if policy.alpha == "drop":
        remark = "alpha dropped: colours under transparent pixels are counted"
        return Picture(np.ascontiguousarray(colour), mode, size, None, (remark,))
    if policy.alpha == "mask":
        valid = np.repeat((alpha > 0)[..., None], colour.shape[2], axis=2)
        remark = "alpha used as mask: fully transparent pixels are not counted"
        return Picture(np.ascontiguousarray(colour), mode, size, valid, (remark,))
    background = np.array([int(policy.alpha[-6:][k : k + 2], 16) for k in (0, 2, 4)], np.float64) / 255 * opaque
    if colour.shape[2] == 1:  # luma of ITU-R BT.601, as everywhere in Pillow
        background = np.array([background @ (0.299, 0.587, 0.114)])
    share = alpha[..., None] / opaque
    blended = np.rint(colour * share + background * (1 - share)).astype(colour.dtype)
    return Picture(blended, mode, size, None, (f"alpha blended onto {policy.alpha[-7:]}",))


def excluding(picture: Picture, nodata: float | None) -> Picture:
    """The picture with values equal to `nodata` left out."""
    if nodata is None:
        return picture
    present = picture.pixels != nodata
    valid = present if picture.valid is None else picture.valid & present
    return Picture(picture.pixels, picture.mode, picture.size, valid, picture.remarks)


def turned(picture: Picture, orientation: int) -> Picture:
    """The picture as a viewer shows it that heeds its EXIF orientation (2 to 8; anything else leaves it)."""
    turn = _TURNS.get(orientation)
    if turn is None:
        return picture
    valid = None if picture.valid is None else turn(picture.valid)
    remarks = (*picture.remarks, "EXIF orientation applied")
    return Picture(np.ascontiguousarray(turn(picture.pixels)), picture.mode, picture.size, valid, remarks)


def _transposed(image: Image.Image) -> Image.Image:
    from PIL import ImageOps

    return ImageOps.exif_transpose(image)
