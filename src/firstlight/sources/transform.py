"""Resize and center crop as torchvision's v2 does them on a Pillow image, so that the pixels are those of training."""

from dataclasses import dataclass, replace

import numpy as np
from PIL import Image

from firstlight._typing import Pixels
from firstlight.errors import FirstlightError
from firstlight.sources.picture import MAX_PIXELS, Picture, check_size

RESAMPLING = ("nearest", "box", "bilinear", "hamming", "bicubic", "lanczos")


@dataclass(frozen=True)
class Transform:
    """What happens to every image before its pixels are counted.

    Attributes:
        resize: length of the shorter side, or (height, width); None leaves the size.
        crop: side of the central square, or (height, width); None leaves the frame. Zeros fill what lies
            outside a smaller image, as in torchvision.
        resample: one of `RESAMPLING`.
    """

    resize: int | tuple[int, int] | None = None
    crop: int | tuple[int, int] | None = None
    resample: str = "bilinear"

    def __post_init__(self) -> None:
        for name, size in (("resize", self.resize), ("crop", self.crop)):
            if size is None:
                continue
            sides = size if isinstance(size, tuple) else (size, size)
            if len(sides) != 2 or not all(type(side) is int and side > 0 for side in sides):
                raise FirstlightError(
                    f"{name}={size!r} is not a size in pixels",
                    "give a positive integer, or height and width",
                    slug="bad-size",
                )
            if sides[0] * sides[-1] > MAX_PIXELS:
                raise FirstlightError(
                    f"{name}={size!r} asks for more than {MAX_PIXELS:,} pixels an image",
                    "give a smaller size",
                    slug="bad-size",
                )
        if self.resample not in RESAMPLING:
            raise FirstlightError(
                f"there is no resampling {self.resample!r}",
                f"choose one of {', '.join(RESAMPLING)}",
                slug="bad-resample",
            )

    def __str__(self) -> str:
        parts = []
        if self.resize is not None:
            parts.append(f"resize {_size_text(self.resize)} {self.resample}")
        if self.crop is not None:
            parts.append(f"center crop {_size_text(self.crop)}")
        return ", ".join(parts) or "none"

    def __call__(self, picture: Picture) -> Picture:
        """The transformed picture. A resized pixel counts only if every pixel that it was made from counts.

        Raises:
            Unreadable: when a long, thin image would become too large.
        """
        if self.resize is not None:
            picture = self._resized(picture)
        if self.crop is not None:
            picture = self._cropped(picture)
        return picture

    def _resized(self, picture: Picture) -> Picture:
        height, width = self._target(*picture.pixels.shape[:2])
        if (height, width) == picture.pixels.shape[:2]:
            return picture
        check_size(height, width)
        filter_ = Image.Resampling[self.resample.upper()]
        pixels, valid = picture.pixels, picture.valid
        if pixels.dtype.kind == "f" and not np.isfinite(pixels).all():
            valid = np.isfinite(pixels) if valid is None else valid & np.isfinite(pixels)
            pixels = np.where(valid, pixels, 0).astype(pixels.dtype)
        resized = _resize(pixels, height, width, filter_)
        if valid is not None:
            weights = _resize(valid.astype(np.float32), height, width, filter_)
            valid = np.abs(weights - 1) < 1e-4
        return replace(picture, pixels=resized, valid=valid)

    def _target(self, height: int, width: int) -> tuple[int, int]:
        """Output size; for an int, the arithmetic of torchvision: int(size·long/short)."""
        if isinstance(self.resize, tuple):
            return self.resize
        assert self.resize is not None
        if width <= height:
            return int(self.resize * height / width), self.resize
        return self.resize, int(self.resize * width / height)

    def _cropped(self, picture: Picture) -> Picture:
        height, width = self.crop if isinstance(self.crop, tuple) else (self.crop or 0, self.crop or 0)
        h, w = picture.pixels.shape[:2]
        remarks = picture.remarks
        pixels, valid = picture.pixels, picture.valid
        if h < height or w < width:
            dy, dx = max(height - h, 0), max(width - w, 0)
            pad = ((dy // 2, (dy + 1) // 2), (dx // 2, (dx + 1) // 2), (0, 0))
            pixels = np.pad(pixels, pad)
            valid = None if valid is None else np.pad(valid, pad, constant_values=True)
            remarks += ("smaller than the crop: filled up with zeros, as torchvision does",)
            h, w = pixels.shape[:2]
        top, left = round((h - height) / 2), round((w - width) / 2)
        window = np.s_[top : top + height, left : left + width]
        return replace(picture, pixels=pixels[window], valid=None if valid is None else valid[window], remarks=remarks)


def _resize(pixels: Pixels, height: int, width: int, filter_: Image.Resampling) -> Pixels:
    """H×W×C of any C. 8-bit exactly as Pillow; 16-bit and floats per channel in float32, 16-bit then rounded."""
    if pixels.dtype == np.uint8:
        planes = [pixels] if pixels.shape[2] == 3 else [pixels[..., c] for c in range(pixels.shape[2])]
        resized = [np.asarray(_pillow(plane).resize((width, height), filter_)) for plane in planes]
        return resized[0].copy() if pixels.shape[2] == 3 else np.stack(resized, axis=2)
    channels = [_pillow(pixels[..., c].astype(np.float32)) for c in range(pixels.shape[2])]
    stacked = np.stack([np.asarray(image.resize((width, height), filter_)) for image in channels], axis=2)
    if pixels.dtype == np.uint16:
        return np.clip(np.rint(stacked), 0, 65535).astype(np.uint16)
    return stacked


def _pillow(plane: Pixels) -> Image.Image:
    return Image.fromarray(np.ascontiguousarray(plane))


def _size_text(size: int | tuple[int, int]) -> str:
    return f"{size[0]}×{size[1]}" if isinstance(size, tuple) else str(size)
