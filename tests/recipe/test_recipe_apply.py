"""Every way of applying a recipe against the plain float64 definition of its steps."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal
from recipe_images import correlated_images

import firstlight as fl
from firstlight.recipe import Input, Recipe
from firstlight.recipe.steps import Channels, Divide, Reorder, Subtract

PRESETS = {
    "alexnet": Recipe.alexnet,
    "vgg": Recipe.vgg,
    "resnet": Recipe.resnet,
    "scale": lambda stats: Recipe.scale(stats, to=(-1, 1)),
    "pca": Recipe.pca,
    "pca2": lambda stats: Recipe.pca(stats, components=2, whiten=True),
    "zca": Recipe.zca,
    "turned": lambda stats: Recipe.resnet(stats).then(Reorder((1, 2, 0))),
    "turned-first": lambda stats: Recipe.zca(stats).then(Reorder((2, 0, 1))),
    "caffe": lambda stats: Recipe.alexnet(stats).then(Reorder((2, 1, 0)), Divide(stats.std)),
    "image-then-mix": lambda stats: Recipe.alexnet(stats).then(Divide(stats.std_image + 0.1), Channels(np.eye(3)[:2])),
}


def definition(recipe, images):
    pixels = images.astype(np.float64)
    if images.dtype.kind == "u":
        pixels /= np.iinfo(images.dtype).max
    for step in recipe.steps:
        pixels = step.apply(pixels)
    return pixels


def assert_rounded_once(result, exact):
    """Half a unit in the last place, and what float64 itself may lose where large terms cancel."""
    assert result.dtype == np.float32
    assert result.shape == exact.shape
    assert np.all(np.abs(result - exact) <= 0.5000001 * np.spacing(np.abs(exact).astype(np.float32)) + 1e-13)


@pytest.fixture(scope="module", params=["uint8", "uint16", "float32", "float64"])
def data(request):
    images = correlated_images(count=6, size=9, dtype=request.param)
    return images, fl.scan(images, workers=1)


@pytest.mark.parametrize("preset", PRESETS)
def test_numpy_is_the_definition_rounded_once(data, preset):
    images, stats = data
    recipe = PRESETS[preset](stats)
    assert_rounded_once(recipe(images), definition(recipe, images))
    assert_array_equal(recipe(images[2]), recipe(images)[2])


@pytest.mark.parametrize("preset", PRESETS)
def test_torch_equals_numpy(data, preset):
    images, stats = data
    recipe = PRESETS[preset](stats)
    tensor = torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))
    result = recipe(tensor)
    assert_rounded_once(result.numpy().transpose(0, 2, 3, 1), definition(recipe, images))
    assert_array_equal(recipe(tensor.to(memory_format=torch.channels_last)), result)
    assert_array_equal(recipe(tensor[1]), result[1])


@pytest.mark.parametrize("preset", PRESETS)
def test_module_agrees(data, preset):
    images, stats = data
    recipe = PRESETS[preset](stats)
    tensor = torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))
    exact = definition(recipe, images).transpose(0, 3, 1, 2)
    scale = max(1.0, np.abs(exact).max())
    module = recipe.module()
    assert np.abs(module(tensor).numpy() - exact).max() <= 2e-6 * scale
    assert np.abs(module(tensor[0]).numpy() - exact[0]).max() <= 2e-6 * scale
    assert all(not p.requires_grad for p in module.parameters())


def test_module_exports_and_compiles(images, stats):
    module = Recipe.zca(stats).module()
    tensor = torch.from_numpy(np.ascontiguousarray(images[:4].transpose(0, 3, 1, 2)))
    program = torch.export.export(module, (tensor,), dynamic_shapes=({0: torch.export.Dim("n")},))
    assert torch.equal(program.module()(tensor[:2]), module(tensor[:2]))
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
    assert torch.allclose(compiled(tensor), module(tensor), atol=1e-6)


def test_floats_of_full_scale_give_what_integers_give(images, stats):
    recipe = Recipe.resnet(stats)
    assert np.abs(recipe(images / np.float64(255)) - recipe(images)).max() < 1e-6
    tensor = torch.from_numpy(images.transpose(0, 3, 1, 2).copy())
    assert (recipe.module()(tensor / 255) - recipe(tensor)).abs().max() < 2e-6


def test_gradients_reach_the_pixels(images, stats):
    tensor = (torch.from_numpy(images.transpose(0, 3, 1, 2).copy()) / 255).requires_grad_()
    Recipe.resnet(stats)(tensor).sum().backward()
    assert torch.allclose(tensor.grad[0, :, 0, 0], torch.tensor(1 / stats.std, dtype=torch.float32))


def test_many_threads_change_nothing(stats):
    large = correlated_images(count=3, size=700)
    recipe = Recipe.resnet(stats)
    assert_rounded_once(recipe(large), definition(recipe, large))


def test_empty_batches_keep_their_shape(stats):
    assert Recipe.pca(stats, components=2)(np.empty((0, 5, 4, 3), np.uint8)).shape == (0, 5, 4, 2)
    assert Recipe.resnet(stats)(torch.empty((0, 3, 5, 4), dtype=torch.uint8)).shape == (0, 3, 5, 4)


@settings(deadline=None, max_examples=60)
@given(data=st.data())
def test_any_chain_of_steps_is_its_definition(data):
    channels = data.draw(st.integers(1, 5))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    shape = (4, 3)
    steps, now = [], channels
    for kind in data.draw(st.lists(st.sampled_from("sSdDrc"), max_size=5)):
        if kind == "s":
            steps.append(Subtract(rng.normal(size=now)))
        elif kind == "S":
            steps.append(Subtract(rng.normal(size=(*shape, now))))
        elif kind == "d":
            steps.append(Divide(rng.uniform(0.5, 2, size=now)))
        elif kind == "D":
            steps.append(Divide(rng.uniform(0.5, 2, size=(*shape, now))))
        elif kind == "r":
            steps.append(Reorder(tuple(rng.permutation(now))))
        else:
            after = int(rng.integers(1, 6))
            steps.append(Channels(rng.normal(size=(after, now))))
            now = after
    recipe = Recipe("any", Input("uint8", channels), tuple(steps))
    images = rng.integers(0, 256, size=(2, *shape, channels), dtype=np.uint8)
    images[0, 0, 0, 0] = 200
    exact = definition(recipe, images)
    assert np.abs(recipe(images) - exact).max() <= 1e-6 * max(1, np.abs(exact).max())
    tensor = torch.from_numpy(images.transpose(0, 3, 1, 2).copy())
    assert np.abs(recipe(tensor).numpy() - exact.transpose(0, 3, 1, 2)).max() <= 1e-6 * max(1, np.abs(exact).max())
    assert Recipe.from_dict(recipe.to_dict()) == recipe


def test_making_a_recipe_never_loads_torch():
    code = (
        "import sys, numpy as np, firstlight as fl; s = fl.scan(np.eye(4, dtype=np.uint8)[None, ..., None] * 9);"
        "fl.Recipe.resnet(s)(np.ones((4, 4, 1), np.uint8) * 9); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True, timeout=60)
