"""What the page shows of the recipes is what the recipes do."""

import numpy as np
import pytest

import firstlight as fl
from firstlight.report import scan_document, to_html
from firstlight.workflows.samples import sample_images
from firstlight.workflows.views import recipe_views


def views_of(images, **names):
    stats = fl.scan(images)
    return stats, recipe_views(stats, [(f"{k}", image) for k, image in enumerate(images)])


@pytest.fixture(scope="module")
def photos():
    from firstlight.engines import Observer
    from firstlight.sources import Policy, Transform, open_source

    source = open_source("demo:photos")
    return np.stack([pixels for _, pixels in sample_images(source, Observer(Policy(), Transform()), 40)])


def test_every_recipe_has_its_strip(photos):
    _, views = views_of(photos)
    assert [name.split(" (")[-1] for name, _ in views.strips[1:]] == ["AlexNet)", "VGG)", "ResNet)", "PCA)", "ZCA)"]
    assert not views.missing
    assert all(len(images) == 6 for _, images in views.strips)


def test_the_clouds_are_centred_scaled_uncorrelated_and_white(photos):
    stats, views = views_of(photos)
    clouds = dict(views.clouds)
    assert np.allclose(clouds["original"] - clouds["zero-centred"], stats.mean[[0, 2]])
    assert np.allclose(clouds["normalized"] * stats.std[[0, 2]], clouds["zero-centred"])
    whole = photos.reshape(-1, 3) / 255 - stats.mean
    rotated = whole @ stats.eigen[1]
    assert np.allclose(np.cov(rotated.T, bias=True), np.diag(stats.eigen[0]), atol=1e-12)
    scale = clouds["decorrelated"] / clouds["whitened"]
    assert np.allclose(scale, np.sqrt(stats.eigen[0][:2]))


def test_images_of_different_sizes_have_no_mean_image_and_say_so():
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (8 + k, 9, 3), dtype=np.uint8) for k in range(4)]
    _, views = views_of(images)
    assert len(views.missing) == 1
    assert "AlexNet" in views.missing[0]


def test_constant_images_make_a_page_too():
    images = np.full((3, 8, 8, 3), 9, np.uint8)
    stats, views = views_of(images)
    text = to_html(scan_document(stats, [], views))
    assert "nan" not in text.lower().replace("finance", "")
    assert views.missing  # a covariance of zero cannot be whitened


def test_gray_and_float_images_have_no_section():
    for images in (np.zeros((2, 8, 8, 1), np.uint8), np.random.default_rng(0).random((2, 8, 8, 3))):
        assert views_of(images)[1] is None


def test_the_page_stays_small(photos):
    stats, views = views_of(photos)
    samples = [(f"{k}", image) for k, image in enumerate(photos[:12])]
    assert len(to_html(scan_document(stats, samples, views))) < 1_000_000


def test_a_row_has_one_scale_on_which_gray_is_zero():
    dark, light = np.full((8, 8, 3), 55, np.uint8), np.full((8, 8, 3), 205, np.uint8)
    dark[0, 0], light[0, 0] = (50, 60, 70), (210, 190, 200)
    _, views = views_of(np.stack([dark, light]))
    shown = dict(views.strips)["minus the channel mean (VGG)"]
    assert 80 < shown[0][4, 4].mean() < 100
    assert abs(shown[0][4, 4].mean() + shown[1][4, 4].mean() - 255) < 4
