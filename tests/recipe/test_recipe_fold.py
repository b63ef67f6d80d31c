"""Folding: the same output, at the borders too, or a refusal."""

import copy

import numpy as np
import pytest
import torch
from recipe_images import correlated_images
from torch import nn

import firstlight as fl
from firstlight.recipe import Recipe
from firstlight.recipe.steps import Reorder
from firstlight.statistics.vectors import Vectors


@pytest.fixture(scope="module")
def raw(images):
    return torch.from_numpy(images[:4].transpose(0, 3, 1, 2).copy())


def recipes(stats):
    return {
        "resnet": Recipe.resnet(stats),
        "zca": Recipe.zca(stats),
        "pca2": Recipe.pca(stats, components=2, whiten=True),
        "bgr": Recipe.vgg(stats).then(Reorder((2, 1, 0))),
    }


def same(a, b):
    return (a - b).abs().max() <= 1e-5 * b.abs().max()


@pytest.mark.parametrize("name", ["resnet", "zca", "pca2", "bgr"])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("padding", [0, 1, 3, (2, 0), "same", "valid"])
def test_conv(stats, raw, name, stride, padding):
    if padding == "same" and stride == 2:
        pytest.skip("torch has no strided same padding")
    torch.manual_seed(0)
    recipe = recipes(stats)[name]
    conv = nn.Conv2d(recipe.output_shape[2], 8, 7 if padding == 3 else 3, stride, padding)
    assert same(recipe.fold(conv)(raw), conv(recipe(raw)))
    assert same(recipe.fold(conv)(raw.float()), conv(recipe(raw)))


@pytest.mark.parametrize("mode", ["reflect", "replicate", "circular"])
@pytest.mark.parametrize("name", ["resnet", "zca"])
def test_copied_borders_need_no_care(stats, raw, mode, name):
    conv = nn.Conv2d(3, 4, 5, padding=2, padding_mode=mode, bias=False)
    recipe = recipes(stats)[name]
    assert same(recipe.fold(conv)(raw), conv(recipe(raw)))


@pytest.mark.parametrize("name", ["resnet", "zca", "bgr"])
def test_groups_and_dilation(stats, raw, name):
    conv = nn.Conv2d(3, 6, 3, padding=2, dilation=2, groups=3)
    recipe = recipes(stats)[name]
    folded = recipe.fold(conv)
    assert same(folded(raw), conv(recipe(raw)))
    assert folded.groups == (3 if name == "resnet" else 1)


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
def test_even_kernels_of_same_padding(stats, raw):
    conv = nn.Conv2d(3, 4, 4, padding="same")
    assert same(Recipe.resnet(stats).fold(conv)(raw), conv(Recipe.resnet(stats)(raw)))


def test_zero_padding_would_be_wrong(stats, raw):
    """What the border value is for: plain zeros are off by a good part of the output."""
    conv = nn.Conv2d(3, 8, 7, 2, 3)
    recipe = Recipe.resnet(stats)
    folded = recipe.fold(conv)
    right = conv(recipe(raw))
    folded.border.zero_()
    wrong = (folded(raw) - right).abs()
    assert wrong[..., 2:-2, 2:-2].max() < 1e-5 * right.abs().max()
    assert wrong.max() > 0.1 * right.abs().max()


@pytest.mark.parametrize("preset", ["alexnet", "resnet", "zca"])
def test_linear(stats, raw, preset):
    recipe = getattr(Recipe, preset)(stats)
    linear = nn.Linear(3 * 12 * 12, 5)
    assert same(recipe.fold(linear)(raw.flatten(1)), linear(recipe(raw).flatten(1)))


def test_folded_layer_exports(stats, raw):
    folded = Recipe.resnet(stats).fold(nn.Conv2d(3, 4, 3, padding=1))
    program = torch.export.export(folded, (raw,))
    assert torch.allclose(program.module()(raw), folded(raw))


class TestRefusals:
    @pytest.mark.parametrize(
        ("make", "layer"),
        [
            (Recipe.alexnet, nn.Conv2d(3, 4, 3)),
            (Recipe.resnet, nn.Conv2d(4, 4, 3)),
            (Recipe.resnet, nn.ConvTranspose2d(3, 4, 3)),
            (Recipe.resnet, nn.Linear(100, 4)),
            (Recipe.alexnet, nn.Linear(3 * 5 * 5, 4)),
        ],
    )
    def test_says_to_keep_the_step(self, stats, make, layer):
        with pytest.raises(fl.FirstlightError, match=r"recipe\.module") as caught:
            make(stats).fold(layer)
        assert caught.value.slug == "cannot-fold"

    def test_patches(self, images):
        with pytest.raises(fl.FirstlightError, match="neighbouring"):
            Recipe.zca(Vectors.of_patches(images, 3)).fold(nn.Conv2d(3, 4, 3))


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU())
        self.head = nn.Linear(8, 4)

    def forward(self, x):
        return self.head(self.stem(x).mean((2, 3)))


class Twice(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)

    def forward(self, x):
        return self.conv(x) + x


class TestFoldInto:
    def test_finds_the_first_layer_and_leaves_the_model_alone(self, stats, raw):
        model = Net()
        before = copy.deepcopy(model.state_dict())
        recipe = Recipe.zca(stats)
        folded = recipe.fold_into(model, raw)
        assert same(folded.eval()(raw), model.eval()(recipe(raw)))
        assert all(torch.equal(value, model.state_dict()[name]) for name, value in before.items())
        assert type(model.stem[0]) is nn.Conv2d

    def test_through_flatten_into_linear(self, stats, raw):
        model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 144, 7), nn.Tanh())
        recipe = Recipe.alexnet(stats)
        assert same(recipe.fold_into(model, raw)(raw), model(recipe(raw)))

    def test_a_model_that_is_one_layer(self, stats, raw):
        model = nn.Conv2d(3, 2, 3, padding=1)
        assert same(Recipe.vgg(stats).fold_into(model, raw)(raw), model(Recipe.vgg(stats)(raw)))

    def test_refuses_an_input_that_goes_elsewhere_too(self, stats, raw):
        with pytest.raises(fl.FirstlightError) as caught:
            Recipe.resnet(stats).fold_into(Twice(), raw)
        assert caught.value.slug == "cannot-fold"

    def test_proves_it_on_the_batch(self, stats, raw):
        class Reads(Net):
            def forward(self, x):
                self.stem[0].weight_norm = self.stem[0].weight.norm()  # depends on the weight in a way no fold keeps
                return super().forward(x) * self.stem[0].weight_norm

        with pytest.raises(fl.FirstlightError) as caught:
            Recipe.resnet(stats).fold_into(Reads(), raw)
        assert caught.value.slug in ("fold-not-equal", "cannot-fold")

    def test_sixteen_bits_and_floats(self):
        for dtype in (np.uint16, np.float32):
            images = correlated_images(count=4, dtype=dtype)
            recipe = Recipe.resnet(fl.scan(images, workers=1))
            tensor = torch.from_numpy(images.transpose(0, 3, 1, 2).copy())
            conv = nn.Conv2d(3, 4, 3, padding=1)
            assert same(recipe.fold(conv)(tensor), conv(recipe(tensor)))
