"""Laws of PCA and ZCA, and agreement with libraries that form the D×D matrix."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from recipe_images import correlated_images

import firstlight as fl
from firstlight import fit
from firstlight.recipe import Recipe
from firstlight.recipe.linear import Pixels
from firstlight.statistics.sketch import LowRankSketch
from firstlight.statistics.vectors import Vectors

EPSILON = 1e-2


@pytest.fixture(scope="module")
def small():
    return correlated_images(count=200, size=4)


@pytest.fixture(scope="module")
def pixels(small):
    return Vectors.of_pixels(small)


@pytest.fixture(scope="module")
def patches(images):
    return Vectors.of_patches(images, 3)


@pytest.fixture(scope="module")
def pictures():
    return correlated_images(count=300, size=8)


def covariance(rows):
    return np.cov(rows.reshape(-1, rows.shape[-1]).T.astype(np.float64), bias=True)


def shrinkage(values):
    return values / (values + EPSILON * values.mean())


class TestChannels:
    def test_pca_decorrelates_and_keeps_the_variance(self, images, stats):
        result = covariance(Recipe.pca(stats)(images))
        assert_allclose(result, np.diag(stats.eigen[0]), atol=1e-7)

    def test_whitened_variance_is_what_epsilon_leaves(self, images, stats):
        result = covariance(Recipe.pca(stats, whiten=True, epsilon=EPSILON)(images))
        assert_allclose(result, np.diag(shrinkage(stats.eigen[0])), atol=1e-6)

    def test_zca_covariance_and_symmetry(self, images, stats):
        recipe = Recipe.zca(stats, epsilon=EPSILON)
        values, vectors = stats.eigen
        assert_allclose(covariance(recipe(images)), (vectors * shrinkage(values)) @ vectors.T, atol=1e-6)
        assert_array_equal(recipe.steps[1].matrix, recipe.steps[1].matrix.T)
        assert_allclose(covariance(Recipe.zca(stats, epsilon=0)(images)), np.eye(3), atol=1e-5)

    def test_epsilon_does_not_know_the_units(self):
        unit = correlated_images(dtype=np.float64) / 40
        one, thousand = fl.scan(unit, workers=1), fl.scan(unit * 1000, workers=1)
        a, b = Recipe.zca(one, epsilon=0.1), Recipe.zca(thousand, epsilon=0.1)
        assert_allclose(a(unit), b(unit * 1000), atol=1e-5)

    def test_variance_keeps_as_few_as_it_takes(self, stats):
        share = np.cumsum(stats.eigen[0]) / stats.eigen[0].sum()
        assert Recipe.pca(stats, variance=share[0] - 1e-9).output_shape[2] == 1
        assert Recipe.pca(stats, variance=share[0] + 1e-9).output_shape[2] == 2
        assert Recipe.pca(stats, variance=1).output_shape[2] == 3


class TestPixels:
    def test_statistics_are_those_of_numpy(self, small, pixels):
        flat = small.reshape(len(small), -1) / 255
        assert_allclose(pixels.mean.reshape(-1), flat.mean(0), rtol=1e-15)
        assert_allclose(pixels.covariance, np.cov(flat.T, bias=True), rtol=1e-11, atol=1e-15)

    @settings(deadline=None, max_examples=25)
    @given(st.integers(1, 199), st.sampled_from([np.uint8, np.uint16]))
    def test_integers_add_up_to_the_bit(self, cut, dtype):
        whole = correlated_images(count=200, size=4, dtype=dtype)
        a = Vectors.of_pixels(whole[:cut]) + Vectors.of_pixels(whole[cut:])
        b = Vectors.of_pixels(whole)
        assert_array_equal(a.products, b.products)
        assert_array_equal(a.sums, b.sums)

    def test_extremes_stay_exact(self):
        for dtype in (np.uint8, np.uint16):
            flat = np.zeros((5000, 2, 2, 1), dtype)
            flat[::2, 0] = np.iinfo(dtype).max
            found = Vectors.of_pixels(flat)
            half = (np.iinfo(dtype).max + 1) // 2
            assert found.products[0, 0] == 2500 * half**2 + 2500 * (half - 1) ** 2
        for value in (0, 255):  # D above the float32 lane's threshold; 127² is odd, so long sums would round
            wide = np.full((3001, 24, 23, 1), value, np.uint8)
            assert (Vectors.of_pixels(wide).products == 3001 * (value - 128) ** 2).all()

    def test_floats_add_up(self):
        whole = correlated_images(count=60, size=3, dtype=np.float32)
        a, b = Vectors.of_pixels(whole[:17]) + Vectors.of_pixels(whole[17:]), Vectors.of_pixels(whole)
        assert_allclose(a.covariance, b.covariance, rtol=1e-10, atol=1e-12)

    def test_zca_whitens_and_is_symmetric(self, small, pixels):
        recipe = Recipe.zca(pixels, epsilon=EPSILON)
        values, vectors = pixels.eigen
        result = recipe(small).reshape(len(small), -1)
        assert_allclose(covariance(result), (vectors * shrinkage(values)) @ vectors.T, atol=1e-5)
        matrix = recipe.steps[1].apply(np.eye(48).reshape(48, 4, 4, 3)).reshape(48, 48)
        assert_allclose(matrix, matrix.T, atol=1e-12)

    def test_pca_against_scikit_learn(self, small, pixels):
        from sklearn.decomposition import PCA

        flat = small.reshape(len(small), -1) / 255.0
        theirs = PCA(20, whiten=True, svd_solver="full").fit(flat)
        ours = Recipe.pca(pixels, components=20, whiten=True, epsilon=0)
        a, b = theirs.transform(flat), ours(small).reshape(len(small), -1)
        signs = np.sign((a * b).sum(0))
        n = len(flat)
        assert_allclose(a * np.sqrt(n / (n - 1)), b * signs, atol=2e-5)  # scikit-learn divides by n − 1

    def test_zca_against_kornia(self, small, pixels):
        kornia = pytest.importorskip("kornia", reason="kornia is not installed")
        tensor = torch.from_numpy(small.transpose(0, 3, 1, 2) / 255.0)
        epsilon = 1e-3
        theirs = kornia.enhance.ZCAWhitening(eps=epsilon, unbiased=False, compute_inv=False).fit(tensor)(tensor)
        ours = Recipe.zca(pixels, epsilon=epsilon / pixels.eigen[0].mean())
        assert_allclose(ours(torch.from_numpy(small.transpose(0, 3, 1, 2).copy())), theirs, atol=2e-5)


class TestPatches:
    def test_statistics_are_those_of_all_patches(self, images, patches):
        rows = np.stack(
            [image[i : i + 3, j : j + 3].reshape(-1) for image in images for i in range(10) for j in range(10)]
        )
        assert patches.count == len(rows)
        assert_allclose(patches.covariance, covariance(rows / 255), rtol=1e-10, atol=1e-14)

    def test_pca_whitens_every_patch(self, images, patches):
        recipe = Recipe.pca(patches, whiten=True, epsilon=EPSILON)
        inside = recipe(images)[:, 1:-1, 1:-1].astype(np.float64)
        assert_allclose(inside.mean((0, 1, 2)), 0, atol=1e-6)
        assert_allclose(covariance(inside), np.diag(shrinkage(patches.eigen[0])), atol=1e-6)

    def test_zca_filters_whiten_the_channels(self, images, patches):
        recipe = Recipe.zca(patches, epsilon=EPSILON)
        values, vectors = patches.eigen
        middle = slice(12, 15)
        wanted = (vectors * shrinkage(values)) @ vectors.T
        assert_allclose(covariance(recipe(images)[:, 1:-1, 1:-1]), wanted[middle, middle], atol=1e-6)
        whole = (vectors / np.sqrt(values + EPSILON * values.mean())) @ vectors.T
        assert_allclose(recipe.steps[1].filters.reshape(3, -1), whole[middle], atol=1e-12)

    def test_whole_images_as_one_patch_agree_with_pixels(self, small, pixels):
        one = Vectors.of_patches(small, 4)
        assert_array_equal(one.products, pixels.products)

    @pytest.mark.parametrize("size", [1, 2, 3, 4, 5])
    def test_module_and_torch_agree_with_numpy(self, images, size):
        recipe = Recipe.zca(Vectors.of_patches(images, size))
        tensor = torch.from_numpy(images.transpose(0, 3, 1, 2).copy())
        numpy = recipe(images).transpose(0, 3, 1, 2)
        assert_array_equal(recipe(tensor), numpy)
        assert_allclose(recipe.module()(tensor), numpy, atol=2e-5)


class TestLowRank:
    def test_a_full_sketch_is_exact(self, pictures):
        exact = Vectors.of_pixels(pictures)
        found = fit(pictures, rank=192, passes=1)
        assert_allclose(found.values, exact.eigen[0], rtol=1e-5, atol=3e-7 * exact.eigen[0][0])
        assert_allclose(found.mean, exact.mean, atol=1e-7)
        assert_allclose(found.total, exact.eigen[0].sum(), rtol=1e-6)

    def test_error_is_an_upper_bound_and_close(self, pictures):
        exact = Vectors.of_pixels(pictures).eigen[0]
        flat = pictures.reshape(len(pictures), -1) / 255.0
        for passes in (1, 2, 3):
            found = fit(pictures, rank=12, passes=passes)
            centred = flat - found.mean.reshape(-1)
            vectors = found.vectors.astype(np.float64)
            rms = np.sqrt(np.mean((centred - centred @ vectors @ vectors.T) ** 2))
            best = np.sqrt(exact[12:].sum() / exact.size)
            assert best - 1e-7 <= rms <= found.error + 1e-7
            assert found.error <= best * (1.2 if passes == 1 else 1.02)
            assert (found.values <= exact[:12] + 3e-7 * exact[0]).all()
            assert_allclose(vectors.T @ vectors, np.eye(12), atol=1e-5)

    def test_sketches_add_up(self, pictures):
        start = lambda: LowRankSketch.empty("uint8", (8, 8, 3), 10)  # noqa: E731
        a = start().add(pictures[:100]) + start().add(pictures[100:])
        b = start().add(pictures)
        assert_allclose(a.components().values, b.components().values, rtol=1e-6)
        with pytest.raises(fl.FirstlightError, match="begun differently"):
            a + LowRankSketch.empty("uint8", (8, 8, 3), 10, seed=1)

    def test_zca_of_low_rank_is_symmetric_and_whitens_what_it_holds(self, pictures):
        found = fit(pictures, rank=40, passes=3)
        recipe = Recipe.zca(found, epsilon=EPSILON)
        assert isinstance(recipe.steps[1], Pixels)
        matrix = recipe.steps[1].apply(np.eye(192).reshape(192, 8, 8, 3)).reshape(192, 192)
        assert_allclose(matrix, matrix.T, atol=1e-10)
        rows = recipe(pictures).reshape(len(pictures), -1).astype(np.float64)
        held = covariance(rows @ found.vectors.astype(np.float64))
        padded = EPSILON * found.total / 192
        assert_allclose(np.diag(held)[:20], (found.values / (found.values + padded))[:20], rtol=2e-2)
        assert np.trace(covariance(rows)) == pytest.approx(192 * (1 - EPSILON), rel=0.1)

    def test_fewer_images_than_rank(self, pictures):
        found = fit(pictures[:9], rank=30)
        assert len(found.values) == 8
        assert found.captured == pytest.approx(1, abs=1e-5)

    def test_no_square_matrix_at_large_sizes(self):
        import tracemalloc

        large = correlated_images(count=8, size=160)  # D = 76,800: a D×D matrix would need 47 GB
        tracemalloc.start()
        found = fit(large, rank=6)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert len(found.vectors) == 76_800
        assert peak < 12 * 76_800 * 22 * 4


@pytest.mark.parametrize(
    "make", ["channels", "patches", "even", "pixels", "low", "zca", "zca-pixels", "zca-low", "alexnet"]
)
def test_inverse_gives_back_the_pixels(make, small, pixels):
    stats = fl.scan(small, workers=1)
    patches = Vectors.of_patches(small, 3)
    recipe = {
        "channels": lambda: Recipe.pca(stats, whiten=True),
        "patches": lambda: Recipe.pca(patches, whiten=True),
        "even": lambda: Recipe.pca(Vectors.of_patches(small, 2)),
        "pixels": lambda: Recipe.pca(pixels),
        "low": lambda: Recipe.pca(fit(small, rank=48), whiten=True),
        "zca": lambda: Recipe.zca(stats),
        "zca-pixels": lambda: Recipe.zca(pixels),
        "zca-low": lambda: Recipe.zca(fit(small, rank=10)),
        "alexnet": lambda: Recipe.alexnet(stats),
    }[make]()
    back = recipe.inverse()
    assert back.lossless
    assert_array_equal(back(recipe(small)), small)
    assert_allclose(back(recipe(small[0]), as_float=True), small[0] / 255, atol=2e-5)
    tensor = torch.from_numpy(small.transpose(0, 3, 1, 2).copy())
    assert torch.equal(back(recipe(tensor)), tensor)


def test_dropped_components_are_said(small, pixels):
    back = Recipe.pca(pixels, components=12).inverse()
    assert not back.lossless
    flat = small.reshape(len(small), -1) / 255.0
    centred = flat - flat.mean(0)
    axes = pixels.eigen[1][:, :12]
    found = back(Recipe.pca(pixels, components=12)(small), as_float=True).reshape(len(small), -1)
    assert_allclose(found, centred @ axes @ axes.T + flat.mean(0), atol=1e-5)


def test_errors_say_the_way_out(images, stats, patches):
    cases = {
        "no-inverse": lambda: Recipe.zca(patches).inverse(),
        "other-statistics": lambda: Recipe.zca(stats, over="pixels"),
        "bad-over": lambda: Recipe.zca(stats, over="rows"),
        "bad-epsilon": lambda: Recipe.zca(stats, epsilon=-1),
        "bad-components": lambda: Recipe.pca(stats, components=4),
        "too-many-components": lambda: Vectors.of_pixels(np.zeros((1, 80, 80, 3), np.uint8)),
        "bad-patch": lambda: Vectors.of_patches(images, 13),
        "sizes-differ": lambda: Vectors.of_pixels([images[0], images[0][:5]]),
        "do-not-belong-together": lambda: patches + Vectors.of_pixels(images),
        "bad-rank": lambda: fit(images, rank=0),
    }
    for slug, call in cases.items():
        with pytest.raises(fl.FirstlightError) as caught:
            call()
        assert caught.value.slug == slug
        assert caught.value.way_out
    flat = fl.scan(np.full((2, 3, 3, 3), 7, np.uint8), workers=1)
    with pytest.raises(fl.FirstlightError, match="singular"):
        Recipe.zca(flat, epsilon=0)


def test_files_keep_every_bit(tmp_path, small, pixels, patches):
    for number, recipe in enumerate([Recipe.zca(pixels), Recipe.pca(patches), Recipe.zca(fit(small, rank=5))]):
        recipe.save(tmp_path / f"{number}.json")
        again = Recipe.load(tmp_path / f"{number}.json")
        assert again == recipe
        images = small if number != 1 else correlated_images(count=2)
        assert_array_equal(again(images), recipe(images))
    pixels.save(tmp_path / "pixels.json")
    assert_array_equal(Vectors.load(tmp_path / "pixels.json").products, pixels.products)
