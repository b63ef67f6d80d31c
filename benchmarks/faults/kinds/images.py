"""Faults of the images."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from faults.setting import Fault, Places, Setting, normalized

_ABSORBED = {"absorbs": "the first layer's normalization absorbs the scale and shift of the images"}


def _images(change: Callable[[Setting], Tensor]) -> Callable[[Setting], Places]:
    def apply(setting: Setting) -> Places:
        setting.images = change(setting)
        return ("input",)

    return apply


def _raw(setting: Setting) -> Tensor:
    return torch.from_numpy(setting.pixels.copy()).permute(0, 3, 1, 2).contiguous()


def _constants(setting: Setting) -> tuple[Tensor, Tensor]:
    return tuple(torch.tensor(setting.declared[key]).view(3, 1, 1) for key in ("mean", "std"))


def _twice(setting: Setting) -> Tensor:
    mean, std = _constants(setting)
    return ((setting.images - mean) / std).float()


def _scaled_twice(setting: Setting) -> Tensor:
    mean, std = _constants(setting)
    return ((_raw(setting) / 255 / 255 - mean) / std).float()


def _foreign(setting: Setting) -> Places:
    mean, std = (0.1307,) * 3, (0.3081,) * 3  # MNIST's, copied with a training script
    setting.images = normalized(setting.pixels, mean, std)
    setting.declared |= {"mean": mean, "std": std}
    return ("input",)


def _per_mille(setting: Setting) -> Tensor:
    """Constants in units of 255 on images in units of 1."""
    mean, std = _constants(setting)
    return ((_raw(setting) / 255 - mean * 255) / (std * 255)).float()


def _scrambled(setting: Setting) -> Tensor:
    n, _, height, width = setting.images.shape
    return setting.images.permute(0, 2, 3, 1).reshape(n, 3, height, width).contiguous()


def _swapped(setting: Setting) -> Tensor:
    return normalized(setting.pixels[..., ::-1], setting.declared["mean"], setting.declared["std"])


def _wrapped(setting: Setting) -> Tensor:
    """Normalized values stored as bytes: negative ones wrap around."""
    return torch.from_numpy(setting.images.numpy().astype(np.int64).astype(np.uint8))


def _repeated(setting: Setting) -> Tensor:
    return setting.images[:1].expand_as(setting.images).clone()


def _half_repeated(setting: Setting) -> Tensor:
    half = setting.images[: len(setting.images) // 2]
    return torch.cat([half, half])


def _blank(setting: Setting) -> Tensor:
    """A failed decoder's black images, normalized."""
    mean, std = _constants(setting)
    return (-mean / std).float().expand_as(setting.images).clone()


def _half_blank(setting: Setting) -> Tensor:
    images = setting.images.clone()
    images[::2] = _blank(setting)[::2]
    return images


def _without(channel: int, value: float) -> Callable[[Setting], Tensor]:
    def change(setting: Setting) -> Tensor:
        images = setting.images.clone()
        images[:, channel] = value
        return images

    return change


def _pixel(value: float) -> Callable[[Setting], Tensor]:
    def change(setting: Setting) -> Tensor:
        images = setting.images.clone()
        images[3, 1, 5, 7] = value
        return images

    return change


FAULTS = (
    Fault(
        "raw-pixels",
        "values to 255 make the first layer's results and gradients a hundred times too large",
        ("FL101",),
        _images(lambda s: _raw(s).float()),
        _ABSORBED,
    ),
    Fault(
        "unit-range",
        "divided by 255 but not centred: every weight of a unit gets a gradient of one sign",
        ("FL101",),
        _images(lambda s: _raw(s).float() / 255),
        _ABSORBED,
    ),
    Fault(
        "scaled-twice",
        "divided by 255 twice and then normalized: all images are one colour but for 0.4 %",
        ("FL102", "FL101"),
        _images(_scaled_twice),
        _ABSORBED,
    ),
    Fault(
        "normalized-twice",
        "the constants applied twice: a mean of minus two and a std of four",
        ("FL102", "FL101"),
        _images(_twice),
        _ABSORBED,
    ),
    Fault(
        "foreign-constants",
        "another data set's constants leave a mean of about one std",
        ("FL103", "FL101"),
        _foreign,
        _ABSORBED,
    ),
    Fault(
        "constants-of-bytes",
        "constants in units of 255 on images in units of 1: contrast of 1/255 around a large mean",
        ("FL101", "FL102"),
        _images(_per_mille),
        _ABSORBED,
    ),
    Fault(
        "swapped-channels",
        "BGR images under RGB constants: not what any other user of the constants or weights will feed",
        ("FL104",),
        _images(_swapped),
    ),
    Fault(
        "scrambled-layout",
        "rows of HWC bytes reshaped to CHW: neighbours are no neighbours any more",
        ("FL105",),
        _images(_scrambled),
    ),
    Fault(
        "byte-images",
        "bytes that the network turns into floats itself are raw pixels",
        ("FL106", "FL101"),
        _images(_raw),
        _ABSORBED,
    ),
    Fault(
        "truncated-images",
        "normalized values cast to integers: four or five gray levels are left",
        ("FL106",),
        _images(lambda s: s.images.to(torch.int64)),
    ),
    Fault(
        "wrapped-images",
        "normalized values cast to bytes: minus one becomes 255",
        ("FL106", "FL101"),
        _images(_wrapped),
    ),
    Fault(
        "clipped-images",
        "normalized values clipped to 0 … 1 as for a picture: half of all pixels are zero",
        ("FL101", "FL106"),
        _images(lambda s: s.images.clamp(0, 1)),
    ),
    Fault(
        "sixteen-bit-images",
        "16-bit pixels divided by 255 stay 256 times too large",
        ("FL101", "FL106"),
        _images(lambda s: _raw(s).float() * 257 / 255),
        _ABSORBED,
    ),
    Fault("blank-images", "every image is one colour: there is nothing to learn", ("FL107",), _images(_blank)),
    Fault("half-blank-images", "every other image failed to decode", ("FL107",), _images(_half_blank)),
    Fault("repeated-image", "one image in the whole batch under different labels", ("FL108",), _images(_repeated)),
    Fault("repeated-images", "every image twice, under different labels", ("FL108",), _images(_half_repeated)),
    Fault("dead-channel", "the blue channel is zero throughout", ("FL109",), _images(_without(2, 0.0))),
    Fault("nan-pixel", "one NaN makes every weight NaN in the first step", ("FL110",), _images(_pixel(float("nan")))),
    Fault("infinite-pixel", "one Inf makes the loss NaN", ("FL110",), _images(_pixel(float("inf")))),
)
