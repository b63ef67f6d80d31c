"""What other tools got wrong when computing statistics, one test per defect. Numbers are the published ones."""

import io

import imagecodecs
import numpy as np
import pytest
from PIL import Image, ImageFile

import firstlight as fl
from corpus import encoded, photo


def flat(value: int, height: int = 10, width: int = 10, dtype: type = np.uint8) -> np.ndarray:
    return np.full((height, width, 3), value, dtype)


def test_the_mean_weighs_all_images_alike() -> None:
    # Datumaro merges (a + b) / 2 pair by pair and says 22.5.
    stats = fl.scan([flat(0), flat(0), flat(90)])
    np.testing.assert_array_equal(stats.mean * 255, 30)


def test_the_mean_weighs_images_by_their_pixels() -> None:
    # Datumaro says 100.
    stats = fl.scan([flat(0, 100, 100), flat(200, 10, 10)])
    np.testing.assert_allclose(stats.mean * 255, 200 * 100 / 10_100, rtol=1e-15)
    assert round(float(stats.mean[0] * 255), 2) == 1.98


def test_the_std_of_values_far_from_zero_does_not_cancel() -> None:
    # MONAI sums squares in float32 and says 56.85.
    volumes = [np.linspace(20_000, 20_200, 64 * 64, dtype=np.float32).reshape(64, 64, 1)] * 40
    stats = fl.scan(volumes)
    truth = np.stack(volumes).astype(np.float64).std()
    assert round(float(truth), 1) == 57.7
    np.testing.assert_allclose(stats.std, truth, rtol=1e-12)


def test_squares_of_bytes_do_not_wrap() -> None:
    # An early LeRobot squared in uint8 and got a std of 0.
    values = np.arange(256, dtype=np.uint8).reshape(16, 16, 1)
    stats = fl.scan([values])
    np.testing.assert_allclose(stats.std * 255, np.arange(256).std(), rtol=1e-15)
    assert round(float(stats.std[0] * 255), 2) == 73.9


@pytest.mark.parametrize("codec", ["png", "tiff", "pgm"])
def test_16_bit_gray_neither_wraps_nor_saturates(codec: str) -> None:
    # torchvision's ToTensor makes −25536 of 40000, Pillow's convert("RGB") 255.
    pixels = np.full((4, 4), 40_000, np.uint16)
    data = imagecodecs.png_encode(pixels) if codec == "png" else encoded(pixels, {"tiff": "TIFF", "pgm": "PPM"}[codec])
    stats = fl.scan([data])
    assert stats.kind == "uint16"
    assert round(float(stats.mean[0]), 4) == 0.6104
    np.testing.assert_allclose(stats.mean, 40_000 / 65_535, rtol=1e-15)
    np.testing.assert_array_equal(stats.std, 0)


def test_a_pillow_image_of_mode_i16_keeps_its_values() -> None:
    image = Image.fromarray(np.full((4, 4), 40_000, np.uint16))
    assert image.mode == "I;16"
    np.testing.assert_allclose(fl.scan([image]).mean, 40_000 / 65_535, rtol=1e-15)


def test_16_bit_rgb_png_stays_16_bit() -> None:
    # Pillow opens it as 8-bit RGB without a word.
    pixels = np.random.default_rng(0).integers(0, 65_536, (31, 17, 3), dtype=np.uint16)
    stats = fl.scan([imagecodecs.png_encode(pixels)])
    assert stats.kind == "uint16"
    np.testing.assert_allclose(stats.mean, pixels.mean((0, 1)) / 65_535, rtol=1e-12)
    np.testing.assert_array_equal(stats.max, pixels.max((0, 1)) / 65_535)


def test_a_truncated_jpeg_contributes_no_filler(monkeypatch: pytest.MonkeyPatch) -> None:
    # With LOAD_TRUNCATED_IMAGES, which training scripts set to get on with it, Pillow fills up with gray.
    good = encoded(photo(120, 160), "JPEG", quality=90)
    cut = good[: len(good) * 2 // 3]
    stats = fl.scan([good, good, cut])
    alone = fl.scan([good, good])
    np.testing.assert_array_equal(stats.mean, alone.mean)
    assert [name for name, _ in stats.quarantine] == ["item 00000002"]
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    filled = np.array(Image.open(io.BytesIO(cut)).convert("RGB"))
    assert abs(filled.mean() - photo(120, 160).mean()) > 1  # the defect is still there
    np.testing.assert_array_equal(fl.scan([good, good, cut]).mean, alone.mean)


@pytest.mark.parametrize("format_", ["PNG", "GIF", "BMP", "TIFF"])
def test_no_truncated_file_contributes_filler_even_if_pillow_is_told_to(
    monkeypatch: pytest.MonkeyPatch, format_: str
) -> None:
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    good = encoded(photo(120, 160), format_)
    stats = fl.scan([good, good, good[: len(good) * 2 // 3]])
    assert stats.count == 2
    assert len(stats.quarantine) == 1


def test_both_kinds_of_std_are_there_and_differ() -> None:
    # 0.229 and 0.2023 are means of per-image stds, copied as if they were the std of the pixels.
    images = [flat(0), flat(100), flat(255)]
    stats = fl.scan(images)
    np.testing.assert_array_equal(stats.per_image_std, 0)
    np.testing.assert_allclose(stats.std * 255, np.std([0, 100, 255]), rtol=1e-15)


def test_the_covariance_implies_the_std() -> None:
    # The file that introduced 0.229 0.224 0.225 ships eigenvalues that imply 0.284 0.276 0.290.
    stats = fl.scan([photo(30, 40, seed=k) for k in range(5)])
    values, vectors = stats.eigen
    np.testing.assert_allclose(np.sqrt(np.diag(vectors @ np.diag(values) @ vectors.T)), stats.std, rtol=1e-12)


def test_five_bands_are_counted_like_three() -> None:
    pixels = np.random.default_rng(1).integers(0, 65_536, (3, 9, 8, 5), dtype=np.uint16)
    stats = fl.scan(pixels)
    assert stats.channels == 5
    assert stats.provenance.channel_order == "bands as stored"
    np.testing.assert_allclose(stats.std, pixels.reshape(-1, 5).std(0) / 65_535, rtol=1e-12)


def test_one_bad_image_does_not_drop_its_batch() -> None:
    good = encoded(photo(), "JPEG")
    stats = fl.scan([good] * 9 + [b"\xff\xd8\xff broken"] + [good] * 9)
    assert stats.count == 18


def test_large_16_bit_images_do_not_overflow() -> None:
    # 3 · 65535² · 2²² passes 2⁵⁵ and, over a few images, any 64-bit sum of n·Σx².
    image = np.full((2048, 2048, 3), 65_535, np.uint16)
    image[0, 0] = 0
    stats = fl.scan(np.stack([image] * 3))
    n = 2048 * 2048
    np.testing.assert_allclose(stats.mean, (n - 1) / n, rtol=1e-15)
    np.testing.assert_allclose(stats.std, np.sqrt((n - 1) / n / n), rtol=1e-12)
    np.testing.assert_allclose(stats.per_image_std, np.sqrt((n - 1) / n / n), rtol=1e-12)
