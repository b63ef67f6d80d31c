"""Every number of `Statistics` against two passes of NumPy in float64, on every kind of pixel."""

import numpy as np
import pytest
from scipy import stats as scipy_stats

import firstlight as fl
from firstlight.statistics import Provenance, Statistics, Tally, observe
from references import Reference, two_pass

NOWHERE = Provenance((), "", "none", "", "mask", "as stored", None, "", "", "")
SIZES = [(31, 17), (16, 16), (1, 1), (5, 40), (64, 33), (16, 16), (2, 129)]
PERCENTILES = (0, 0.5, 5, 25, 50, 75, 95, 99.5, 100)


def images_of(dtype: type, channels: int, sizes: list[tuple[int, int]] = SIZES, seed: int = 0) -> list[np.ndarray]:
    """Images that differ in mean and spread, as photographs do."""
    rng = np.random.default_rng(seed)
    images = []
    for k, (h, w) in enumerate(sizes):
        unit = np.clip(rng.normal(0.2 + 0.1 * k, 0.15, (h, w, channels)) + rng.normal(0, 0.1, (h, w, 1)), 0, 1)
        scale = np.iinfo(dtype).max if np.dtype(dtype).kind == "u" else 1
        images.append((unit * scale).astype(dtype))
    return images


def statistics_of(images: list[np.ndarray], valid: list[np.ndarray] | None = None) -> Statistics:
    joint = observe(images, valid)
    return Statistics(Tally({(joint.histogram.kind, joint.channels): joint}), NOWHERE)


def assert_agrees(stats: Statistics, truth: Reference, rtol: float = 1e-12) -> None:
    scale = stats.full_scale
    close = np.testing.assert_allclose
    np.testing.assert_array_equal(stats.pixels, truth.pixels)
    close(stats.mean * scale, truth.mean, rtol=rtol)
    close(stats.std * scale, truth.std, rtol=rtol)
    np.testing.assert_array_equal(stats.min, truth.low / scale)
    np.testing.assert_array_equal(stats.max, truth.high / scale)
    close(stats.covariance * scale**2, truth.covariance, rtol=rtol, atol=rtol * truth.covariance.max())
    close(stats.per_image_std * scale, truth.per_image_std, rtol=rtol)
    close(stats.between_image_variance * scale**2, truth.between, rtol=10 * rtol)
    close(stats.confidence * scale, truth.confidence, rtol=10 * rtol)


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 5, 6])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32, np.float64, np.float16])
def test_every_number_of_mixed_sizes(dtype: type, channels: int) -> None:
    images = images_of(dtype, channels)
    stats = statistics_of(images)
    truth = two_pass(images)
    assert_agrees(stats, truth)
    assert stats.count == len(images)
    assert stats.channels == channels
    assert stats.mean_image is None
    assert stats.std_image is None
    for q in PERCENTILES:
        expected = [np.percentile(v, q) / stats.full_scale for v in truth.values]
        if np.dtype(dtype).kind == "u":
            np.testing.assert_allclose(stats.percentile(q), expected, rtol=1e-12)
        else:
            np.testing.assert_allclose(stats.percentile(q), expected, rtol=1 / 64)


@pytest.mark.parametrize("channels", [1, 3, 5])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32, np.float64])
def test_every_number_under_masks(dtype: type, channels: int) -> None:
    rng = np.random.default_rng(5)
    images = images_of(dtype, channels)
    valid = [rng.random(image.shape) < 0.7 for image in images]
    valid[1][:] = False  # an image without a valid pixel
    valid[3][..., 0] = False  # and one without any in its first channel
    assert_agrees(statistics_of(images, valid), two_pass(images, valid))
    # A mask for some images only, the others whole.
    some = [None if k % 2 else mask for k, mask in enumerate(valid)]
    filled = [np.ones(i.shape, bool) if m is None else m for i, m in zip(images, some, strict=True)]
    assert_agrees(statistics_of(images, some), two_pass(images, filled))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_values_that_are_not_finite_are_left_out(dtype: type) -> None:
    rng = np.random.default_rng(6)
    images = images_of(dtype, 3)
    for image in images[1:]:
        image[rng.random(image.shape) < 0.1] = np.nan
        image[rng.random(image.shape) < 0.05] = np.inf
        image[rng.random(image.shape) < 0.05] = -np.inf
    assert_agrees(statistics_of(images), two_pass(images))


def test_a_channel_without_a_value_is_nan_and_null() -> None:
    images = [np.dstack([np.ones((4, 4)), np.full((4, 4), np.nan)])] * 2
    stats = statistics_of(images)
    for numbers in (stats.mean, stats.std, stats.min, stats.max, stats.per_image_std, stats.percentile(50)):
        assert np.isfinite(numbers[0])
        assert np.isnan(numbers[1])
    assert stats.summary()["mean"] == [1.0, None]
    masked = statistics_of([np.ones((4, 4, 2), np.uint8)] * 2, [np.dstack([np.ones((4, 4)), np.zeros((4, 4))]) > 0] * 2)
    assert np.isnan(masked.mean[1])
    assert np.isnan(masked.covariance).all()


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32, np.float64])
@pytest.mark.parametrize("masked", [False, True])
def test_the_mean_image_and_its_std(dtype: type, masked: bool) -> None:
    rng = np.random.default_rng(7)
    images = np.stack(images_of(dtype, 3, [(9, 13)] * 11))
    valid = rng.random(images.shape) < 0.8 if masked else None
    if masked:
        valid[:, 0, 0] = False
    stats = statistics_of(list(images), None if valid is None else list(valid))
    chosen = np.ma.masked_array(images.astype(np.float64), ~valid if masked else False)
    np.testing.assert_allclose(stats.mean_image * stats.full_scale, chosen.mean(0).filled(np.nan), rtol=1e-12)
    np.testing.assert_allclose(stats.std_image * stats.full_scale, chosen.std(0).filled(np.nan), rtol=1e-11)
    assert not masked or np.isnan(stats.mean_image[0, 0]).all()


def test_the_std_of_a_position_that_never_changes_is_zero() -> None:
    images = np.full((1000, 3, 3, 1), 65_535, np.uint16)
    images[:, 1, 1] = 12_345
    np.testing.assert_array_equal(fl.scan(images).std_image, 0)
    np.testing.assert_array_equal(fl.scan(images.astype(np.float32)).std_image, 0)


def test_floats_far_from_zero() -> None:
    rng = np.random.default_rng(8)
    images = [rng.normal(1e8, 1, (40, 50, 2)) for _ in range(30)]
    stats = statistics_of(images)
    truth = two_pass(images)
    np.testing.assert_allclose(stats.mean, truth.mean, rtol=1e-15)
    np.testing.assert_allclose(stats.std, truth.std, rtol=1e-9)  # the mean itself is known to 1e-8
    np.testing.assert_allclose(stats.covariance, truth.covariance, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(stats.per_image_std, truth.per_image_std, rtol=1e-12)


def test_tiny_and_huge_floats() -> None:
    for scale in (1e-30, 1e30):
        images = [image * scale for image in images_of(np.float64, 2)]
        stats = statistics_of(images)
        truth = two_pass(images)
        np.testing.assert_allclose(stats.std, truth.std, rtol=1e-12)
        np.testing.assert_allclose(stats.percentile(50), [np.median(v) for v in truth.values], rtol=1 / 64)


def test_percentiles_of_floats_of_both_signs() -> None:
    rng = np.random.default_rng(9)
    values = np.concatenate([rng.normal(0, 5, 10_000), np.zeros(50), [-0.0, 3e-40, 1e300, -1e300]])
    stats = statistics_of([values.reshape(1, -1, 1)])
    for q in (1, 10, 40, 60, 90, 99):
        np.testing.assert_allclose(stats.percentile(q), np.percentile(values, q), rtol=1 / 64, atol=1e-3)
    assert stats.min == -1e300
    assert stats.max == 1e300


def test_all_pixels_at_full_scale() -> None:
    for dtype in (np.uint8, np.uint16):
        stats = statistics_of([np.full((300, 301, 4), np.iinfo(dtype).max, dtype)] * 3)
        np.testing.assert_array_equal(stats.mean, 1)
        np.testing.assert_array_equal(stats.std, 0)
        np.testing.assert_array_equal(stats.covariance, 0)
        np.testing.assert_array_equal(stats.per_image_std, 0)
        np.testing.assert_array_equal(stats.mean_image, 1)


def test_more_images_than_a_32_bit_lane_can_square() -> None:
    # 66,052 · 255² passes 2³².
    images = np.full((140_000, 2, 2, 1), 255, np.uint8)
    images[::2, 0] = 0
    stats = fl.scan(images)
    np.testing.assert_array_equal(stats.mean_image[..., 0], [[0.5, 0.5], [1, 1]])
    np.testing.assert_array_equal(stats.std_image[..., 0], [[0.5, 0.5], [0, 0]])
    np.testing.assert_array_equal(stats.std, np.sqrt(0.1875))


def test_gray_and_colour_are_joined_as_if_gray_had_three_channels() -> None:
    colour, gray = images_of(np.uint8, 3), images_of(np.uint8, 1, seed=2)
    stats = fl.scan([*colour, *gray])
    assert_agrees(stats, two_pass([*colour, *(np.repeat(g, 3, axis=2) for g in gray)]))
    assert stats.tally.joints.keys() == {("uint8", 3), ("uint8", 1)}


def test_8_and_16_bits_are_joined_at_full_scale() -> None:
    shallow, deep = images_of(np.uint8, 3), images_of(np.uint16, 3, seed=3)
    stats = fl.scan([*shallow, *deep])
    assert stats.kind == "uint16"
    assert_agrees(stats, two_pass([*(image.astype(np.uint16) * 257 for image in shallow), *deep]))


def test_the_mean_image_of_gray_and_colour_of_8_and_16_bits() -> None:
    sizes = [(6, 7)] * 4
    colour, gray, deep = images_of(np.uint8, 3, sizes), images_of(np.uint8, 1, sizes), images_of(np.uint16, 1, sizes)
    stats = fl.scan([*colour, *gray, *deep])
    wide = [np.repeat(i, 3 // i.shape[2], axis=2) for i in (*colour, *gray, *deep)]
    every = np.stack([image.astype(np.float64) * (257 if image.dtype == np.uint8 else 1) for image in wide])
    np.testing.assert_allclose(stats.mean_image * 65_535, every.mean(0), rtol=1e-12)
    np.testing.assert_allclose(stats.std_image * 65_535, every.std(0), rtol=1e-11)


class TestConfidence:
    """The interval for the mean treats the image as the unit."""

    def test_of_images_of_one_size_it_is_the_textbook_interval(self) -> None:
        images = images_of(np.uint8, 3, [(8, 9)] * 25)
        means = np.stack(images).mean((1, 2)) / 255
        low, high = scipy_stats.t.interval(0.95, 24, loc=means.mean(0), scale=scipy_stats.sem(means))
        stats = fl.scan(np.stack(images))
        np.testing.assert_allclose(stats.confidence, (high - low) / 2, rtol=1e-10)
        np.testing.assert_allclose(stats.between_image_variance, means.var(0, ddof=1), rtol=1e-10)

    def test_it_covers_the_truth_as_often_as_it_says(self) -> None:
        rng = np.random.default_rng(10)
        hits, rounds = 0, 400
        for _ in range(rounds):
            images = [np.full((4, 4, 1), m) + rng.normal(0, 0.3, (4, 4, 1)) for m in rng.normal(5, 1, 12)]
            stats = statistics_of(images)
            hits += abs(float(stats.mean[0]) - 5) <= float(stats.confidence[0])
        assert 0.92 < hits / rounds < 0.98

    def test_of_one_image_it_is_unknown(self) -> None:
        stats = fl.scan(np.zeros((1, 4, 4, 3), np.uint8))
        assert np.isnan(stats.confidence).all()
        assert np.isnan(stats.between_image_variance).all()
        assert stats.summary()["mean_95_half_width"] == [None] * 3
        assert stats.digits == 0

    def test_only_images_with_a_valid_pixel_count(self) -> None:
        images = images_of(np.uint8, 2, [(6, 6)] * 5)
        valid = [np.ones(image.shape, bool) for image in images]
        valid[0][..., 1] = False
        valid[1][..., 1] = False
        full, part = statistics_of(images), statistics_of(images, valid)
        np.testing.assert_array_equal(full.confidence[0], part.confidence[0])
        np.testing.assert_allclose(part.confidence[1], statistics_of(images[2:]).confidence[1], rtol=1e-12)

    def test_digits_and_images_for(self) -> None:
        stats = fl.scan(np.stack(images_of(np.uint8, 3, [(8, 9)] * 25)))
        width = float(stats.confidence.max())
        assert width <= 0.5 * 10**-stats.digits or stats.digits == 0
        assert width > 0.5 * 10 ** -(stats.digits + 1)
        assert stats.images_for(width / 2) in (100, 101)

    def test_identical_images_leave_no_doubt(self) -> None:
        stats = fl.scan(np.full((5, 3, 3, 3), 77, np.uint8))
        np.testing.assert_array_equal(stats.confidence, 0)
        assert stats.digits == 15


def test_eigenvectors_are_those_of_the_covariance() -> None:
    stats = statistics_of(images_of(np.uint16, 4))
    values, vectors = stats.eigen
    assert (np.diff(values) <= 0).all()
    np.testing.assert_allclose(stats.covariance @ vectors, vectors * values, atol=1e-15)
    np.testing.assert_allclose(vectors.T @ vectors, np.eye(4), atol=1e-14)
    assert (vectors[np.abs(vectors).argmax(0), range(4)] > 0).all()
