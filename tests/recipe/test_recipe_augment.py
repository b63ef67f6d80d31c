"""AlexNet's colour augmentation, and transforms for datasets."""

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from PIL import Image
from recipe_images import correlated_images

import firstlight as fl
from firstlight.recipe import ColourShift, Recipe


def test_one_constant_colour_per_image(images, stats):
    shift = ColourShift.fit(stats)
    moved = shift(images, 7).astype(np.float64) - images / 255
    assert_allclose(moved, np.broadcast_to(moved[:, :1, :1], moved.shape), atol=1e-6)
    assert_array_equal(shift(images, 7), shift(images, 7))
    assert np.abs(moved[0] - moved[1]).max() > 1e-5
    flat = np.full((1, 4, 4, 3), 90, np.uint8)  # a flat image moves too, unlike with per-image eigenvectors
    assert np.abs(shift(flat, 1) - flat / 255).max() > 1e-4


def test_spread_is_that_of_the_paper(stats):
    values, vectors = stats.eigen
    drawn = ColourShift.fit(stats, std=0.3).shifts(200_000, 0)
    wanted = (vectors * (0.3 * values) ** 2) @ vectors.T
    assert_allclose(np.cov(drawn.T), wanted, atol=0.02 * wanted.max())


def test_range_changes_nothing():
    eight = correlated_images()
    wide = eight.astype(np.uint16) * 257
    a, b = (ColourShift.fit(fl.scan(x, workers=1)) for x in (eight, wide))
    assert_allclose(a(eight, 3), b(wide, 3), atol=1e-6)
    floats = eight.astype(np.float64) * 3.7
    low, high = floats.min(), floats.max()
    unit = (floats - low) / (high - low)
    c, d = (ColourShift.fit(fl.scan(x, workers=1)) for x in (floats, unit))
    relative = (c(floats, 3) - floats) / (high - low)
    assert_allclose(relative, d(unit, 3) - unit, atol=1e-5)


def test_torch_equals_numpy_and_feeds_the_recipe(images, stats):
    shift = ColourShift.fit(stats)
    tensor = torch.from_numpy(images.transpose(0, 3, 1, 2).copy())
    assert_allclose(shift(tensor, 5).permute(0, 2, 3, 1), shift(images, 5), atol=1e-6)
    assert_allclose(shift(images[0], 5), shift(images[:1], 5)[0])
    assert Recipe.resnet(stats)(shift(tensor, 5)).dtype == torch.float32


class Pictures(torch.utils.data.Dataset):
    def __init__(self, images, transform):
        self.images, self.transform = images, transform

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        return self.transform(Image.fromarray(self.images[index])), index


def test_dataset_and_loader(images, stats):
    recipe = Recipe.resnet(stats)
    loader = torch.utils.data.DataLoader(Pictures(images, recipe.transform()), batch_size=8)
    batch, _ = next(iter(loader))
    assert_array_equal(batch, recipe(images[:8]).transpose(0, 3, 1, 2))


def test_drops_into_torchvision(images, stats):
    v2 = pytest.importorskip("torchvision.transforms.v2", reason="torchvision is not installed")
    tv = pytest.importorskip("torchvision.tv_tensors")
    recipe = Recipe.resnet(stats)
    pipeline = v2.Compose([v2.ToImage(), v2.CenterCrop(8), recipe.transform()])
    wanted = recipe(images[0, 2:10, 2:10]).transpose(2, 0, 1)
    assert_array_equal(pipeline(Image.fromarray(images[0])), wanted)
    boxes = tv.BoundingBoxes([[1, 1, 3, 3]], format="XYXY", canvas_size=(12, 12))
    image, kept = recipe.transform()(tv.Image(images[0].transpose(2, 0, 1)), boxes)
    assert kept is boxes
    assert_array_equal(image, recipe(images[0]).transpose(2, 0, 1))
    plain, label = recipe.transform()((torch.from_numpy(images[0].transpose(2, 0, 1).copy()), torch.tensor(3)))
    assert_array_equal(plain, image)
    assert label == 3
    shifted = v2.Compose([v2.ToImage(), ColourShift.fit(stats).transform(seed=1), recipe.transform()])
    first, second = shifted(images[0]), shifted(images[0])
    assert first.shape == (3, 12, 12)
    assert not torch.equal(first, second)


def test_gray_pillow_images():
    gray = correlated_images(channels=1)
    recipe = Recipe.resnet(fl.scan(gray, workers=1))
    assert recipe.transform()(Image.fromarray(gray[0, ..., 0])).shape == (1, 12, 12)
