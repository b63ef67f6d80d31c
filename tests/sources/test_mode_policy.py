"""What a stored mode becomes: the policy for alpha, depth, CMYK and orientation."""

import io

import imagecodecs
import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

import firstlight as fl
from corpus import encoded, photo, png_chunk, tiff
from firstlight.sources import Policy, Unreadable, decode

RGB = photo()
ALPHA = np.zeros(RGB.shape[:2], np.uint8)
ALPHA[:, 10:] = 255
ALPHA[:, 20:30] = 100
RGBA = np.dstack([RGB, ALPHA])
DEEP_RGBA = RGBA.astype(np.uint16) * 257


def test_hidden_colours_of_transparent_pixels_do_not_enter_the_mean() -> None:
    # Pillow's convert("RGB") and everything built on it counts the colours that nobody can see.
    hidden = np.zeros((8, 8, 4), np.uint8)
    hidden[:4] = 100, 100, 100, 255
    hidden[4:] = 255, 0, 255, 0
    stats = fl.scan([hidden_image(hidden)])
    np.testing.assert_allclose(stats.mean, 100 / 255)
    np.testing.assert_array_equal(stats.pixels, 32)
    assert stats.tally.remarks == {"alpha used as mask: fully transparent pixels are not counted": 1}


def hidden_image(rgba: np.ndarray) -> Image.Image:
    return Image.open(io.BytesIO(encoded(rgba, "PNG")))


def test_alpha_as_mask_keeps_what_is_only_partly_transparent() -> None:
    picture = decode(encoded(RGBA, "PNG"), Policy(alpha="mask"))
    np.testing.assert_array_equal(picture.pixels, RGB)
    np.testing.assert_array_equal(picture.valid, np.repeat(ALPHA[..., None] > 0, 3, axis=2))


def test_alpha_dropped_is_what_pillow_does() -> None:
    picture = decode(encoded(RGBA, "PNG"), Policy(alpha="drop"))
    np.testing.assert_array_equal(picture.pixels, np.array(Image.fromarray(RGBA).convert("RGB")))
    assert picture.valid is None
    assert "alpha dropped" in picture.remarks[0]


@pytest.mark.parametrize("colour", ["#ffffff", "#102030", "#000000"])
def test_alpha_composited_onto_a_colour_is_what_pillow_does(colour: str) -> None:
    picture = decode(encoded(RGBA, "PNG"), Policy(alpha=f"composite {colour}"))
    background = Image.new("RGBA", (RGB.shape[1], RGB.shape[0]), colour)
    expected = np.array(Image.alpha_composite(background, Image.fromarray(RGBA)).convert("RGB"))
    assert np.abs(picture.pixels.astype(int) - expected).max() <= 1  # Pillow blends in 8 bits
    exact = RGB * (ALPHA[..., None] / 255) + np.array(Image.new("RGB", (1, 1), colour)) * (1 - ALPHA[..., None] / 255)
    np.testing.assert_array_equal(picture.pixels, np.rint(exact))
    assert picture.valid is None


def test_gray_is_composited_onto_the_luma_of_the_colour() -> None:
    la = np.dstack([RGB[..., 0], ALPHA])
    picture = decode(encoded(la, "PNG"), Policy(alpha="composite #ff0000"))
    assert picture.pixels.shape[2] == 1
    assert picture.pixels[0, 0, 0] == round(255 * 0.299)


@pytest.mark.parametrize("alpha", ["mask", "drop", "composite #336699"])
def test_alpha_of_16_bits_is_treated_like_that_of_8(alpha: str) -> None:
    deep = decode(imagecodecs.png_encode(DEEP_RGBA), Policy(alpha=alpha))
    shallow = decode(encoded(RGBA, "PNG"), Policy(alpha=alpha))
    assert deep.pixels.dtype == np.uint16
    assert np.abs(deep.pixels / 257 - shallow.pixels).max() <= 0.5
    assert (deep.valid is None) == (shallow.valid is None)
    rgba_tiff = decode(tiff(DEEP_RGBA, photometric="rgb", extrasamples=["unassalpha"]), Policy(alpha=alpha))
    np.testing.assert_array_equal(rgba_tiff.pixels, deep.pixels)


def test_opaque_alpha_is_no_mask() -> None:
    picture = decode(encoded(np.dstack([RGB, np.full_like(ALPHA, 255)]), "PNG"), Policy())
    assert picture.valid is None
    assert picture.remarks == ()


def test_the_colour_that_a_palette_declares_transparent_is_left_out() -> None:
    image = Image.fromarray((np.arange(64).reshape(8, 8) % 4).astype(np.uint8)).convert("P")
    image.putpalette([0, 0, 0, 10, 20, 30, 40, 50, 60, 70, 80, 90])
    picture = decode(encoded(image, "PNG", transparency=1), Policy())
    assert picture.mode == "P"
    np.testing.assert_array_equal(picture.valid[..., 0], np.array(image) != 1)


@pytest.mark.parametrize("quality", [50, 95])
@pytest.mark.parametrize("subsampling", [0, 2])
def test_a_cmyk_jpeg_has_the_pixels_of_pillow_and_torchvision(quality: int, subsampling: int) -> None:
    # OpenCV and simplejpeg differ from Pillow by a full level of the mean.
    data = encoded(Image.fromarray(RGB).convert("CMYK"), "JPEG", quality=quality, subsampling=subsampling)
    expected = np.array(Image.open(io.BytesIO(data)).convert("RGB"))
    picture = decode(data, Policy())
    np.testing.assert_array_equal(picture.pixels, expected)
    assert picture.mode == "CMYK"


@pytest.mark.parametrize("subsampling", [0, 1, 2])
def test_jpeg_is_decoded_accurately(subsampling: int) -> None:
    # fastdct and fastupsample shift the mean by up to 1.24 levels for 5 % of speed.
    data = encoded(photo(101, 203), "JPEG", subsampling=subsampling, quality=80)
    np.testing.assert_array_equal(decode(data, Policy()).pixels, np.array(Image.open(io.BytesIO(data))))


@pytest.mark.parametrize("tag", range(1, 9))
def test_orientation_is_as_stored_unless_asked_for(tag: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = tag
    data = encoded(RGB, "JPEG", exif=exif)
    stored = Image.open(io.BytesIO(data))
    np.testing.assert_array_equal(decode(data, Policy()).pixels, np.array(stored))
    turned = decode(data, Policy(orientation=True))
    np.testing.assert_array_equal(turned.pixels, np.array(ImageOps.exif_transpose(stored)))
    assert turned.size == RGB.shape[:2]
    assert turned.remarks == (() if tag == 1 else ("EXIF orientation applied",))


@pytest.mark.parametrize("tag", range(1, 9))
@pytest.mark.parametrize("kind", ["8-bit TIFF", "16-bit TIFF", "big-endian TIFF", "16-bit PNG"])
def test_tiff_and_deep_png_are_turned_like_a_jpeg(kind: str, tag: int) -> None:
    # Pillow turns a TIFF without being asked, tifffile and imagecodecs never do.
    exif = Image.Exif()
    exif[0x0112] = tag
    stored = RGB if kind == "8-bit TIFF" else RGB.astype(np.uint16) * 257
    if kind == "8-bit TIFF":
        data = encoded(RGB, "TIFF", exif=exif)
    elif kind == "16-bit PNG":
        data = imagecodecs.png_encode(stored)
        data = data[:33] + png_chunk(b"eXIf", exif.tobytes().removeprefix(b"Exif\0\0")) + data[33:]
    else:
        data = tiff(stored, byteorder=">" if "big" in kind else "<", extratags=[(274, "H", 1, tag, True)])
    np.testing.assert_array_equal(decode(data, Policy()).pixels, stored)
    picture = decode(data, Policy(orientation=True))
    image = Image.fromarray(RGB)
    image.getexif()[0x0112] = tag
    turned = np.array(ImageOps.exif_transpose(image))
    np.testing.assert_array_equal(picture.pixels, turned if kind == "8-bit TIFF" else turned.astype(np.uint16) * 257)
    assert picture.size == RGB.shape[:2]
    assert picture.remarks == (() if tag == 1 else ("EXIF orientation applied",))


def test_a_png_is_turned_like_a_jpeg() -> None:
    exif = Image.Exif()
    exif[0x0112] = 8
    turned = decode(encoded(RGB, "PNG", exif=exif), Policy(orientation=True))
    np.testing.assert_array_equal(turned.pixels, np.rot90(RGB))


@pytest.mark.parametrize(
    ("sample", "shape", "mode"),
    [
        (RGB, RGB.shape, "uint8 array"),
        (RGB[..., 0], (*RGB.shape[:2], 1), "uint8 array"),
        (torch.from_numpy(RGB).permute(2, 0, 1), RGB.shape, "uint8 array"),
        (torch.from_numpy(RGB[..., 0].copy()), (*RGB.shape[:2], 1), "uint8 array"),
        (torch.rand(3, 5, 7), (5, 7, 3), "float32 array"),
        (Image.fromarray(RGB), RGB.shape, "RGB"),
        ((Image.fromarray(RGB), 7), RGB.shape, "RGB"),
        ([RGB, "label"], RGB.shape, "uint8 array"),
        ({"label": 3, "image": RGB}, RGB.shape, "uint8 array"),
        ({"jpg": encoded(RGB, "JPEG"), "cls": b"3"}, RGB.shape, "RGB"),
        (memoryview(encoded(RGB, "PNG")), RGB.shape, "RGB"),
        (bytearray(encoded(RGB, "PNG")), RGB.shape, "RGB"),
    ],
)
def test_samples_of_data_sets_come_in_many_shapes(sample: object, shape: tuple[int, ...], mode: str) -> None:
    picture = decode(sample, Policy())
    assert picture.pixels.shape == shape
    assert picture.mode == mode


@pytest.mark.parametrize(
    ("sample", "reason"),
    [
        (None, "a NoneType is not an image"),
        (7, "a int is not an image"),
        ({"label": 3, "mask": RGB}, r"a dict without an image \(keys label, mask\)"),
        ((), "a tuple is not an image"),
        ("gone.png", "cannot be read: No such file or directory"),
        (torch.zeros(2, 3, 4, 5), "is not H×W or H×W×C"),
        (torch.zeros(3, 4, 5, dtype=torch.bfloat16), "cannot be decoded: .*BFloat16"),
    ],
)
def test_samples_that_are_no_images_are_refused(sample: object, reason: str) -> None:
    with pytest.raises(Unreadable, match=reason):
        decode(sample, Policy())


def test_masked_arrays_and_a_nodata_value_are_left_out() -> None:
    array = np.ma.masked_greater(RGB, 200)
    picture = decode(array, Policy(nodata=7))
    np.testing.assert_array_equal(picture.valid, (RGB <= 200) & (RGB != 7))
    assert decode(RGB, Policy(nodata=-9999)).valid.all()
