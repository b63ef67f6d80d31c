"""The compiled loops against plain integer arithmetic, at every awkward length, and from numba's cache."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from firstlight.statistics import kernels
from firstlight.statistics.exact import exact_sum, pack, to_float, unpack

# Around the 32 pixels of an accumulator row, its multiples, and nothing at all.
AWKWARD = [1, 2, 3, 31, 32, 33, 34, 35, 63, 64, 65, 96, 97, 1000, 1023]


def counted(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return kernels.count(images, np.zeros((images.shape[2], np.iinfo(images.dtype).max + 1), np.int64))


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 5, 6])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_sums_and_products_are_exact(dtype: type, channels: int) -> None:
    rng = np.random.default_rng(channels)
    for p in AWKWARD:
        images = rng.integers(0, np.iinfo(dtype).max, (3, p, channels), dtype, endpoint=True)
        images[2] = np.iinfo(dtype).max
        sums, products = counted(images)
        exact = images.astype(object)
        np.testing.assert_array_equal(sums, exact.sum(axis=1))
        np.testing.assert_array_equal(products, np.stack([image.T @ image for image in exact]))


def test_a_lane_is_flushed_before_it_overflows() -> None:
    # 66,051 rows of 255² fill 32 bits; twice that many pixels of one image must pass through two flushes.
    pixels = 66_051 * 32 * 2 + 7
    images = np.full((1, pixels, 2), 255, np.uint8)
    sums, products = counted(images)
    assert sums[0].tolist() == [255 * pixels] * 2
    assert products[0].tolist() == [[255**2 * pixels] * 2] * 2


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_every_value_is_counted_once(dtype: type, channels: int) -> None:
    rng = np.random.default_rng(1)
    bins = np.iinfo(dtype).max + 1
    for p in (1, 2, 7, 100):
        images = rng.integers(0, bins, (2, p, channels)).astype(dtype)
        counts = np.zeros((channels, bins), np.int64)
        kernels.count(images, counts)
        for c in range(channels):
            np.testing.assert_array_equal(counts[c], np.bincount(images[..., c].ravel(), minlength=bins))


def test_read_only_and_strided_arrays_give_the_same() -> None:
    rng = np.random.default_rng(2)
    images = rng.integers(0, 256, (2, 100, 3), np.uint8)
    frozen = images.copy()
    frozen.setflags(write=False)
    for a, b in zip(counted(images), counted(frozen), strict=True):
        np.testing.assert_array_equal(a, b)


def test_kernels_from_the_disk_cache_are_not_mistaken_for_one_another(tmp_path: Path) -> None:
    """One process compiles for gray, another for colour; a third that loads both must not mix them up.

    And it must load them: a cache that grows with every process compiles in every process.
    """
    program = """
import sys, numpy as np
from firstlight.statistics import kernels
for channels in map(int, sys.argv[1]):
    for frozen in (False, True):
        images = np.random.default_rng(0).integers(0, 256, (2, 99, channels), np.uint8)
        images.setflags(write=not frozen)
        sums, products = kernels.count(images, np.zeros((channels, 256), np.int64))
        exact = images.astype(object)
        assert (sums == exact.sum(axis=1)).all(), channels
        assert (products == np.stack([image.T @ image for image in exact])).all(), channels
"""
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)}

    def run(channels: str) -> int:
        subprocess.run([sys.executable, "-c", program, channels], env=environment, check=True)
        return len(list(tmp_path.rglob("*.nbc")))

    run("3")
    compiled = run("1")
    assert run("13") == compiled
    assert run("31") == compiled


def test_sums_beyond_64_bits() -> None:
    values = np.full((5, 2), 2**62, np.int64)
    values[:, 1] = -(2**62) - 3
    np.testing.assert_array_equal(exact_sum(values), [5 * 2**62, -5 * 2**62 - 15])
    np.testing.assert_array_equal(exact_sum(values.astype(object)), exact_sum(values))


def test_division_of_large_integers_rounds_once() -> None:
    a, b = 10**40 + 1, 3 * 10**40
    assert to_float(np.array([a, 5], object), np.array([b, 0], object))[0] == a / b
    assert np.isnan(to_float(np.array([5], object), np.array([0], object)))


@pytest.mark.parametrize(
    "array",
    [
        np.arange(6, dtype=np.int64).reshape(2, 3),
        np.array(7, np.int64),
        np.array([0.1, -np.inf, np.nan, 1e-310]),
        np.array([[2**200, -1], [0, 3]], object),
        np.zeros((0, 3)),
        np.arange(4, dtype=">f4"),
    ],
)
def test_arrays_survive_the_way_through_json(array: np.ndarray) -> None:
    import json

    back = unpack(json.loads(json.dumps(pack(array))))
    assert back.shape == array.shape
    np.testing.assert_array_equal(back, array)
