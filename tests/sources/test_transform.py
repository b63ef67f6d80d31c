"""The pixels are those that training will see: bit by bit those of torchvision's v2 transforms on Pillow images."""

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image
from torchvision.transforms import InterpolationMode, v2

import firstlight as fl
from corpus import photo
from firstlight.sources import RESAMPLING, Picture, Transform, Unreadable

NAMES = {
    "nearest": InterpolationMode.NEAREST,
    "box": InterpolationMode.BOX,
    "bilinear": InterpolationMode.BILINEAR,
    "hamming": InterpolationMode.HAMMING,
    "bicubic": InterpolationMode.BICUBIC,
    "lanczos": InterpolationMode.LANCZOS,
}


def picture(pixels: np.ndarray, valid: np.ndarray | None = None) -> Picture:
    pixels = pixels if pixels.ndim == 3 else pixels[..., None]
    return Picture(pixels, "", pixels.shape[:2], valid)


def torchvision(pixels: np.ndarray, resize: object, crop: object, resample: str = "bilinear") -> np.ndarray:
    image = Image.fromarray(pixels)
    if resize is not None:
        size = [resize] if isinstance(resize, int) else list(resize)
        image = v2.Resize(size, interpolation=NAMES[resample])(image)
    if crop is not None:
        image = v2.CenterCrop(crop)(image)
    array = np.asarray(image)
    return array if array.ndim == 3 else array[..., None]


def test_every_resampling_is_covered() -> None:
    assert set(NAMES) == set(RESAMPLING)


sides = st.integers(1, 90)


@settings(max_examples=120)
@given(
    size=st.tuples(sides, sides),
    resize=st.none() | st.integers(1, 70) | st.tuples(st.integers(1, 70), st.integers(1, 70)),
    crop=st.none() | st.integers(1, 70) | st.tuples(st.integers(1, 70), st.integers(1, 70)),
    resample=st.sampled_from(RESAMPLING),
    channels=st.sampled_from([1, 3]),
)
@example(size=(375, 500), resize=256, crop=224, resample="bilinear", channels=3)
@example(size=(500, 333), resize=256, crop=224, resample="bicubic", channels=3)
@example(size=(500, 333), resize=232, crop=224, resample="lanczos", channels=1)
@example(size=(3, 3), resize=None, crop=8, resample="bilinear", channels=3)
@example(size=(7, 7), resize=None, crop=4, resample="bilinear", channels=3)
@example(size=(8, 3), resize=None, crop=(5, 6), resample="bilinear", channels=3)
def test_resize_and_crop_give_the_pixels_of_torchvision(
    size: tuple[int, int], resize: object, crop: object, resample: str, channels: int
) -> None:
    if isinstance(resize, int) and resize * max(size) // min(size) > 2000:
        resize = None
    pixels = photo(*size, channels=channels, seed=sum(size))
    ours = Transform(resize, crop, resample)(picture(pixels)).pixels
    np.testing.assert_array_equal(ours, torchvision(pixels, resize, crop, resample))
    assert ours.dtype == np.uint8


def test_what_is_scanned_is_what_is_trained_on() -> None:
    images = [photo(40 + k, 61 - k, seed=k) for k in range(8)]
    seen = np.stack([torchvision(image, 32, 28, "bicubic") for image in images])
    stats = fl.scan([Image.fromarray(image) for image in images], resize=32, crop=28, resample="bicubic")
    np.testing.assert_array_equal(stats.mean, fl.scan(seen).mean)
    np.testing.assert_array_equal(stats.mean_image, fl.scan(seen).mean_image)
    assert stats.provenance.transform == "resize 32 bicubic, center crop 28"
    assert dict(stats.tally.heights) == {40 + k: 1 for k in range(8)}  # as stored, before the transform


@pytest.mark.parametrize("resample", RESAMPLING)
def test_16_bits_are_resized_like_8_but_finer(resample: str) -> None:
    pixels = photo(50, 41, channels=1)
    shallow = Transform(20, None, resample)(picture(pixels)).pixels
    deep = Transform(20, None, resample)(picture(pixels.astype(np.uint16) * 257)).pixels
    assert deep.dtype == np.uint16
    assert deep.shape == shallow.shape
    assert np.abs(deep / 257 - shallow).max() <= 1.01  # Pillow rounds 8-bit pixels twice
    if resample == "box":  # an integer ratio: means of whole windows
        deep = Transform((25, 41), None, resample)(picture(pixels.astype(np.uint16) * 257)).pixels
        window = (pixels[::2].astype(float) + pixels[1::2]) / 2 * 257
        np.testing.assert_allclose(deep[..., 0], window, atol=0.51)


def test_16_bits_saturate_and_do_not_wrap() -> None:
    pixels = np.zeros((16, 16, 1), np.uint16)
    pixels[:, 8:] = 65_535
    for resample in ("bicubic", "lanczos"):  # which overshoot at the edge
        resized = Transform(23, None, resample)(picture(pixels)).pixels
        assert resized.min() == 0
        assert resized.max() == 65_535
        assert (np.diff(resized[10, :, 0].astype(int)) > -3000).all()


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32, np.float64])
@pytest.mark.parametrize("channels", [2, 4, 5, 13])
def test_bands_are_resized_one_by_one(dtype: type, channels: int) -> None:
    pixels = photo(30, 20, channels=channels).astype(dtype) * dtype(257 if dtype == np.uint16 else 1)
    transform = Transform((11, 17), (9, 9), "bicubic")
    whole = transform(picture(pixels)).pixels
    assert whole.shape == (9, 9, channels)
    for c in range(channels):
        np.testing.assert_array_equal(whole[..., c], transform(picture(pixels[..., c])).pixels[..., 0])


def test_a_resized_pixel_counts_only_if_all_that_it_is_made_from_count() -> None:
    pixels = np.full((40, 40, 1), 100, np.uint8)
    valid = np.ones(pixels.shape, bool)
    valid[:20] = False
    pixels[:20] = 255  # must not leak over the edge
    result = Transform(13, None, "bilinear")(picture(pixels, valid))
    assert result.valid.dtype == bool
    assert 0 < result.valid.mean() < 0.5
    assert (result.pixels[result.valid] == 100).all()


def test_values_that_are_not_finite_do_not_spread() -> None:
    pixels = np.ones((40, 40, 1), np.float32)
    pixels[3, 3] = np.nan
    pixels[30, 30] = np.inf
    result = Transform(20, None, "bilinear")(picture(pixels))
    np.testing.assert_allclose(result.pixels[result.valid], 1)
    assert 0.9 < result.valid.mean() < 1


def test_a_crop_larger_than_the_image_is_filled_with_zeros_that_count() -> None:
    images = np.full((2, 4, 4, 3), 255, np.uint8)
    stats = fl.scan(images, crop=8)
    np.testing.assert_array_equal(stats.mean, 0.25)
    assert stats.tally.remarks == {"smaller than the crop: filled up with zeros, as torchvision does": 2}
    valid = np.zeros((4, 4, 1), bool)
    padded = Transform(None, 8)(picture(images[0, ..., :1], valid))
    assert padded.valid.sum() == 48


@pytest.mark.parametrize("options", [{"resize": 0}, {"resize": -3}, {"crop": (4, 0)}, {"crop": 2.5}, {"resize": "big"}])
def test_sizes_that_are_none(options: dict) -> None:
    with pytest.raises(fl.FirstlightError) as refusal:
        fl.scan(np.zeros((2, 4, 4, 3), np.uint8), **options)
    assert refusal.value.slug == "bad-size"


def test_a_resampling_that_does_not_exist() -> None:
    with pytest.raises(fl.FirstlightError, match="nearest, box, bilinear, hamming, bicubic, lanczos") as refusal:
        fl.scan(np.zeros((2, 4, 4, 3), np.uint8), resample="cubic")
    assert refusal.value.slug == "bad-resample"


def test_text_of_a_transform() -> None:
    assert str(Transform()) == "none"
    assert str(Transform((3, 4), None, "box")) == "resize 3×4 box"
    assert str(Transform(None, (5, 6))) == "center crop 5×6"


def test_a_long_thin_image_does_not_grow_without_bound() -> None:
    with pytest.raises(Unreadable, match="larger than any photograph"):
        Transform(resize=2000)(picture(np.zeros((1, 60_000, 3), np.uint8)))
