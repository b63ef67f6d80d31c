"""What a recipe refuses, suspects, prints and reads back."""

import json

import numpy as np
import pytest
import torch
from recipe_images import correlated_images

import firstlight as fl
from firstlight.recipe import Input, Recipe, SuspiciousInput
from firstlight.recipe.steps import Channels, Divide, Reorder, Subtract


def slug_of(call):
    with pytest.raises(fl.FirstlightError) as caught:
        call()
    assert caught.value.cause
    assert caught.value.way_out
    return caught.value.slug


class TestDoor:
    @pytest.mark.parametrize(
        ("given", "slug"),
        [
            (np.zeros((4, 4, 4), np.uint8), "wrong-channels"),
            (np.zeros((3, 5, 4), np.uint8), "wrong-layout"),
            (np.zeros((2, 3, 5, 4), np.uint8), "wrong-layout"),
            (np.zeros((5, 4), np.uint8), "wrong-shape"),
            (np.zeros((0, 4, 3), np.uint8), "wrong-shape"),
            (np.zeros((5, 4, 3), np.uint16), "wrong-dtype"),
            (np.zeros((5, 4, 3), np.int64), "wrong-dtype"),
            (np.full((5, 4, 3), 128.0), "wrong-range"),
            (np.full((5, 4, 3), -2.0), "wrong-range"),
        ],
    )
    def test_uint8_recipe(self, stats, given, slug):
        recipe = Recipe.resnet(stats)
        assert slug_of(lambda: recipe(given)) == slug
        if given.ndim > 2 and given.size:
            other = (-3, -1) if slug == "wrong-layout" else (-1, -3)
            tensor = torch.from_numpy(np.moveaxis(given, *other).copy())
            assert slug_of(lambda: recipe(tensor)) == slug

    @pytest.mark.parametrize(
        "given", [np.ones((5, 4, 3), np.uint8), np.full((5, 4, 3), 1.4), np.full((5, 4, 3), 0.5 / 255)]
    )
    def test_suspicion(self, stats, given):
        with pytest.warns(SuspiciousInput):
            Recipe.resnet(stats)(given)
        with pytest.warns(SuspiciousInput):
            Recipe.resnet(stats)(torch.from_numpy(np.moveaxis(given, -1, -3).copy()))

    def test_float_recipe_compares_with_what_was_scanned(self):
        floats = correlated_images(dtype=np.float32)
        recipe = Recipe.resnet(fl.scan(floats, workers=1))
        recipe(floats)
        for wrong in (floats * 100, floats / 1000):
            with pytest.warns(SuspiciousInput):
                recipe(wrong)
        assert slug_of(lambda: recipe(np.zeros((4, 4, 3), np.uint8))) == "wrong-dtype"

    def test_mean_image_has_one_size(self, stats):
        recipe = Recipe.alexnet(stats)
        assert slug_of(lambda: recipe(np.zeros((5, 12, 3), np.uint8))) == "wrong-size"
        assert slug_of(lambda: recipe(torch.zeros((3, 5, 12), dtype=torch.uint8))) == "wrong-size"

    def test_other_integers_only_when_said(self, images, stats):
        wide = Recipe.resnet(stats).accepting("uint16")
        np.testing.assert_allclose(wide(images.astype(np.uint16) * 257), Recipe.resnet(stats)(images), atol=1e-6)
        assert slug_of(lambda: Recipe.resnet(stats).accepting("float")) == "bad-kind"

    def test_nan_is_not_a_range(self, stats):
        floats = np.full((3, 4, 3), np.nan)
        floats[0] = 0.5
        assert np.isnan(Recipe.resnet(stats)(floats)[1]).all()

    def test_inverse_knows_its_results(self, images, stats):
        back = Recipe.pca(stats, components=2).inverse()
        assert slug_of(lambda: back(images)) == "wrong-shape"
        assert slug_of(lambda: back(torch.zeros(4))) == "wrong-shape"


class TestMaking:
    def test_refusals(self, stats):
        mixed = fl.scan([np.zeros((4, 4, 3), np.uint8), np.ones((5, 4, 3), np.uint8)], workers=1)
        flat = fl.scan(np.full((2, 3, 3, 3), 7, np.uint8), workers=1)
        assert slug_of(lambda: Recipe.alexnet(mixed)) == "no-mean-image"
        assert slug_of(lambda: Recipe.resnet(flat)) == "constant-channel"
        assert slug_of(lambda: Recipe.resnet(stats, std="both")) == "bad-std"
        assert slug_of(lambda: Recipe.scale(stats, to=(1, 0))) == "bad-range"
        assert slug_of(lambda: Reorder((0, 0, 1))) == "bad-channel-order"
        assert slug_of(lambda: Subtract([np.nan])) == "bad-constants"
        assert slug_of(lambda: Recipe.resnet(stats).then(Divide([1, 2]))) == "step-does-not-fit"
        assert slug_of(lambda: Input("int8", 3)) == "bad-kind"

    def test_constants_are_frozen(self, stats):
        with pytest.raises(ValueError, match="read-only"):
            Recipe.vgg(stats).steps[0].value[0] = 1

    def test_scale_maps_the_range(self, images, stats):
        assert Recipe.scale(stats)(np.array([[[0, 51, 255]]], np.uint8)).ravel().tolist() == pytest.approx([0, 0.2, 1])
        assert Recipe.scale(stats, to=(-1, 1))(np.array([[[0, 255, 0]]], np.uint8)).ravel().tolist() == [-1, 1, -1]
        floats = correlated_images(dtype=np.float64)
        result = Recipe.scale(fl.scan(floats, workers=1), to=(-1, 1))(floats)
        assert (result.min(), result.max()) == (-1, 1)

    def test_per_image_std_only_when_asked(self, stats):
        np.testing.assert_array_equal(Recipe.resnet(stats).steps[1].value, stats.std)
        np.testing.assert_array_equal(Recipe.resnet(stats, std="per-image").steps[1].value, stats.per_image_std)


class TestFiles:
    @pytest.mark.parametrize("preset", ["alexnet", "vgg", "resnet", "pca", "zca"])
    def test_round_trip(self, tmp_path, images, stats, preset):
        recipe = getattr(Recipe, preset)(stats).then(Reorder((1, 0, 2)))
        recipe.save(tmp_path / "r.json")
        again = Recipe.load(tmp_path / "r.json")
        assert again == recipe
        assert hash(again) == hash(recipe)
        np.testing.assert_array_equal(again(images), recipe(images))
        assert json.loads((tmp_path / "r.json").read_text())["format"] == "firstlight.recipe/1"

    def test_people_can_read_it(self, tmp_path, stats):
        Recipe.resnet(stats).save(tmp_path / "r.json")
        value = json.loads((tmp_path / "r.json").read_text())
        assert value["steps"][0] == {"step": "subtract", "value": stats.mean.tolist()}
        assert value["input"]["kind"] == "uint8"

    def test_refusals(self, tmp_path):
        assert slug_of(lambda: Recipe.load(tmp_path / "none.json")) == "no-such-file"
        for text, slug in {
            "no json": "not-a-recipe",
            "[]": "not-a-recipe",
            '{"format": "firstlight.recipe/9"}': "newer-format",
            '{"format": "firstlight.recipe/1", "steps": []}': "not-a-recipe",
        }.items():
            (tmp_path / "bad.json").write_text(text)
            assert slug_of(lambda: Recipe.load(tmp_path / "bad.json")) == slug

    def test_text(self, stats):
        text = str(Recipe.resnet(stats).then(Reorder((2, 1, 0)), Channels(np.eye(3)[:1])))
        assert "subtract 0." in text
        assert "divide by" in text
        assert "uint8 / 255" in text
        assert "40 images" in text
