"""Every export through the real library, to 1e-6 of the largest value; and what each must refuse."""

import json
import os
import sys
import warnings

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from PIL import Image
from recipe_images import correlated_images

import firstlight as fl
from firstlight import fit
from firstlight.recipe import Recipe
from firstlight.recipe.steps import Reorder
from firstlight.statistics.vectors import Vectors


def library(name, **environment):
    """The real library, or a skip; its own warnings while loading are not ours."""
    os.environ.update(environment)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip(name, reason=f"{name} is not installed")


def planes(images):
    return np.ascontiguousarray(np.moveaxis(images, -1, -3))


def assert_same(given, wanted):
    given, wanted = np.asarray(given, np.float64), np.asarray(wanted, np.float64)
    assert given.shape == wanted.shape
    assert np.abs(given - wanted).max() <= 1e-6 * max(1.0, np.abs(wanted).max())


@pytest.fixture(scope="module")
def kinds():
    found = {}
    for dtype in ("uint8", "uint16", "float32"):
        images = correlated_images(count=5, dtype=dtype)
        found[dtype] = (images, fl.scan(images, workers=1))
    return found


ALL_KINDS = pytest.mark.parametrize("kind", ["uint8", "uint16", "float32"])
PER_CHANNEL = pytest.mark.parametrize("preset", ["vgg", "resnet", "scale"])


def refuses(call):
    with pytest.raises(fl.FirstlightError) as caught:
        call()
    return caught.value.slug == "cannot-export"


class TestHuggingFace:
    @PER_CHANNEL
    def test_round_trip(self, images, stats, preset, tmp_path):
        transformers = library("transformers")
        recipe = getattr(Recipe, preset)(stats)
        config = recipe.export("hf")
        (tmp_path / "preprocessor_config.json").write_text(json.dumps(config))
        processor = transformers.AutoImageProcessor.from_pretrained(tmp_path)
        given = processor([Image.fromarray(image) for image in images], return_tensors="pt")["pixel_values"]
        assert_same(given, planes(recipe(images)))
        again = Recipe.load(tmp_path / "preprocessor_config.json")
        assert_same(again(images), recipe(images))
        processor.save_pretrained(tmp_path / "written")
        assert_same(Recipe.load(tmp_path / "written" / "preprocessor_config.json")(images), recipe(images))

    def test_resize_and_crop_travel(self, tmp_path):
        transformers = library("transformers")
        large = correlated_images(count=3, size=40)
        recipe = Recipe.resnet(fl.scan(large, resize=24, crop=16, workers=1))
        (tmp_path / "preprocessor_config.json").write_text(json.dumps(recipe.export("hf")))
        processor = transformers.AutoImageProcessor.from_pretrained(tmp_path)
        assert processor(Image.fromarray(large[0]), return_tensors="pt")["pixel_values"].shape == (1, 3, 16, 16)
        assert Recipe.load(tmp_path / "preprocessor_config.json").input.transform == recipe.input.transform

    def test_without_rescaling(self, images, stats):
        raw = {
            "image_processor_type": "X",
            "do_rescale": False,
            "do_normalize": True,
            "image_mean": (stats.mean * 255).tolist(),
            "image_std": (stats.std * 255).tolist(),
        }
        assert_same(Recipe.load(raw)(images), Recipe.resnet(stats)(images))

    def test_refuses(self, images, stats, kinds):
        assert refuses(lambda: Recipe.alexnet(stats).export("hf"))
        assert refuses(lambda: Recipe.zca(stats).export("hf"))
        assert refuses(lambda: Recipe.vgg(stats).then(Reorder((2, 1, 0))).export("hf"))
        assert refuses(lambda: Recipe.vgg(kinds["uint16"][1]).export("hf"))


class TestTimm:
    @PER_CHANNEL
    def test_round_trip(self, images, stats, preset, tmp_path):
        timm = library("timm")
        recipe = getattr(Recipe, preset)(stats)
        config = recipe.export("timm")
        transform = timm.data.create_transform(**config, input_size=(3, 12, 12), crop_pct=1.0)
        given = torch.stack([transform(Image.fromarray(image)) for image in images])
        assert_same(given, planes(recipe(images)))
        (tmp_path / "config.json").write_text(json.dumps({"architecture": "x", "pretrained_cfg": config}))
        assert_same(Recipe.load(tmp_path / "config.json")(images), recipe(images))

    def test_crop_travels(self):
        timm = library("timm")
        large = correlated_images(count=3, size=40)
        recipe = Recipe.resnet(fl.scan(large, resize=24, crop=16, workers=1))
        config = timm.data.resolve_data_config(recipe.export("timm"))
        assert config["input_size"] == (3, 16, 16)
        transform = timm.data.create_transform(**recipe.export("timm"))
        from firstlight.sources import Picture, Transform

        picture = Transform(24, 16)(Picture(large[0], "RGB", (40, 40))).pixels
        assert_same(transform(Image.fromarray(large[0])), planes(recipe(picture)))
        assert Recipe.load(config).input.transform == recipe.input.transform

    def test_refuses(self, stats, kinds):
        assert refuses(lambda: Recipe.resnet(kinds["uint16"][1]).export("timm"))
        assert refuses(lambda: Recipe.resnet(kinds["float32"][1]).export("timm"))
        assert refuses(lambda: Recipe.alexnet(stats).export("timm"))


class TestTorchvision:
    @ALL_KINDS
    @PER_CHANNEL
    def test_normalize(self, kinds, kind, preset):
        library("torchvision")
        images, stats = kinds[kind]
        recipe = getattr(Recipe, preset)(stats)
        assert_same(recipe.export("torchvision")(torch.from_numpy(planes(images))), planes(recipe(images)))
        if kind == "uint8":
            assert_same(Recipe.load(recipe.export("torchvision"))(images), recipe(images))

    def test_linear_transformation(self):
        library("torchvision")
        small = correlated_images(count=100, size=4)
        for stats in (Vectors.of_pixels(small), fit(small, rank=9)):
            recipe = Recipe.zca(stats)
            given = recipe.export("torchvision")(torch.from_numpy(planes(small)))
            assert np.abs(given.numpy() - planes(recipe(small))).max() < 1e-5

    def test_load_weights_presets(self, images):
        torchvision = library("torchvision")
        preset = torchvision.models.ResNet18_Weights.IMAGENET1K_V1.transforms()
        recipe = Recipe.load(preset)
        assert recipe.input.transform == "resize 256 bilinear, center crop 224"
        assert_allclose(recipe.steps[1].value, [0.229, 0.224, 0.225])

    def test_refuses(self, images, stats):
        v2 = library("torchvision.transforms.v2")
        assert refuses(lambda: Recipe.alexnet(stats).export("torchvision"))
        assert refuses(lambda: Recipe.zca(Vectors.of_patches(images, 3)).export("torchvision"))
        with pytest.raises(fl.FirstlightError, match="ColorJitter"):
            Recipe.load(v2.Compose([v2.ToImage(), v2.ColorJitter(0.1)]))


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
class TestKeras:
    @ALL_KINDS
    @pytest.mark.parametrize("preset", ["vgg", "resnet", "scale", "alexnet"])
    def test_round_trip(self, kinds, kind, preset):
        keras = library("keras", KERAS_BACKEND="torch")
        images, stats = kinds[kind]
        recipe = getattr(Recipe, preset)(stats)
        layer = recipe.export("keras")
        given = keras.ops.convert_to_numpy(layer(images.astype(np.float32)))
        assert np.abs(given - recipe(images)).max() <= 2e-6 * max(1, np.abs(recipe(images)).max())
        if preset == "resnet":
            assert_allclose(np.ravel(layer.get_config()["variance"]), (stats.std * stats.full_scale) ** 2)

    def test_refuses(self, stats):
        library("keras", KERAS_BACKEND="torch")
        assert refuses(lambda: Recipe.pca(stats).export("keras"))


class TestMMEngine:
    @ALL_KINDS
    @PER_CHANNEL
    def test_round_trip(self, kinds, kind, preset):
        images, stats = kinds[kind]
        self.check(getattr(Recipe, preset)(stats), images)

    def test_turned_channels(self, images, stats):
        recipe = Recipe.resnet(stats).then(Reorder((2, 1, 0)))
        config = recipe.export("mmengine")
        assert config["rgb_to_bgr"]
        assert_allclose(config["mean"], stats.mean[::-1] * 255)
        self.check(recipe, images)

    def check(self, recipe, images):
        mmengine = library("mmengine.model")
        config = recipe.export("mmengine")
        assert config.pop("type") == "ImgDataPreprocessor"
        processor = mmengine.ImgDataPreprocessor(**config)
        tensors = [torch.from_numpy(planes(image).astype(np.float32)) for image in images]
        assert_same(processor({"inputs": tensors})["inputs"], planes(recipe(images)))

    def test_refuses(self, stats):
        five = fl.scan(correlated_images(channels=5), workers=1)
        assert refuses(lambda: Recipe.resnet(five).export("mmengine"))
        assert refuses(lambda: Recipe.vgg(stats).then(Reorder((1, 0, 2))).export("mmengine"))


class TestAlbumentations:
    @ALL_KINDS
    @PER_CHANNEL
    def test_round_trip(self, kinds, kind, preset):
        library("albumentations", NO_ALBUMENTATIONS_UPDATE="1")
        images, stats = kinds[kind]
        recipe = getattr(Recipe, preset)(stats)
        transform = recipe.export("albumentations")
        given = np.stack([transform(image=image)["image"] for image in images])
        assert_same(given, recipe(images))

    def test_five_channels(self):
        library("albumentations", NO_ALBUMENTATIONS_UPDATE="1")
        images = correlated_images(channels=5)
        recipe = Recipe.resnet(fl.scan(images, workers=1))
        assert_same(recipe.export("albumentations")(image=images[0])["image"], recipe(images[0]))

    def test_refuses(self, stats):
        assert refuses(lambda: Recipe.alexnet(stats).export("albumentations"))


def every_recipe(images, stats):
    patches = Vectors.of_patches(images, 3)
    many = correlated_images(count=60, dtype=images.dtype)
    return {
        "alexnet": Recipe.alexnet(stats),
        "resnet": Recipe.resnet(stats),
        "pca": Recipe.pca(stats, components=2, whiten=True),
        "zca": Recipe.zca(stats),
        "bgr": Recipe.vgg(stats).then(Reorder((2, 1, 0))),
        "patches": Recipe.zca(patches),
        "pca-patches": Recipe.pca(patches, components=7),
        "zca-pixels": Recipe.zca(fit(many, rank=9)),
        "pca-pixels": Recipe.pca(fit(many, rank=9)),
    }


class TestOnnx:
    @pytest.mark.parametrize("kind", ["uint8", "uint16", "float32"])
    @pytest.mark.parametrize(
        "name", ["alexnet", "resnet", "pca", "zca", "bgr", "patches", "pca-patches", "zca-pixels", "pca-pixels"]
    )
    def test_alone(self, kinds, kind, name):
        onnxruntime = library("onnxruntime")
        images, stats = kinds[kind]
        recipe = every_recipe(images, stats)[name]
        session = onnxruntime.InferenceSession(recipe.export("onnx").SerializeToString())
        (given,) = session.run(None, {"images": planes(images)})
        wanted = planes(recipe(images))
        assert given.shape == wanted.shape
        loose = "p" in name or name == "zca"  # matrices: the library multiplies and adds in float32
        assert np.abs(given - wanted).max() <= (1e-5 if loose else 1e-6) * max(1, np.abs(wanted).max())

    def test_in_front_of_a_network(self, images, stats, tmp_path):
        onnxruntime = library("onnxruntime")
        library("onnxscript")
        model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3, padding=1), torch.nn.ReLU()).eval()
        recipe = Recipe.resnet(stats)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.onnx.export(model, (torch.zeros(2, 3, 12, 12),), tmp_path / "net.onnx", dynamo=True, verbose=False)
        recipe.export("onnx", model=tmp_path / "net.onnx", path=tmp_path / "all.onnx")
        session = onnxruntime.InferenceSession(tmp_path / "all.onnx")
        (given,) = session.run(None, {"images": planes(images[:2])})
        wanted = model(recipe(torch.from_numpy(planes(images[:2]))))
        assert_allclose(given, wanted.detach(), atol=1e-5)


class TestOpenVino:
    @ALL_KINDS
    @pytest.mark.parametrize("preset", ["vgg", "resnet", "bgr"])
    def test_alone(self, kinds, kind, preset):
        ov = library("openvino")
        images, stats = kinds[kind]
        recipe = Recipe.resnet(stats).then(Reorder((2, 1, 0))) if preset == "bgr" else getattr(Recipe, preset)(stats)
        compiled = ov.compile_model(recipe.export("openvino"), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
        assert_same(compiled(planes(images))[0], planes(recipe(images)))

    def test_in_front_of_a_network(self, images, stats, tmp_path):
        ov = library("openvino")
        model = Recipe.vgg(stats).export("openvino")
        # A recipe in front of a recipe: floats in 0…1 out of the first would not do, so the second takes its result.
        ov.save_model(_doubling(ov), tmp_path / "net.xml")
        recipe = Recipe.resnet(stats)
        compiled = ov.compile_model(
            recipe.export("openvino", model=tmp_path / "net.xml"), "CPU", {"INFERENCE_PRECISION_HINT": "f32"}
        )
        assert_same(compiled(planes(images))[0], 2 * planes(recipe(images)))
        assert model.inputs[0].get_element_type() == ov.Type.u8

    def test_refuses(self, stats):
        library("openvino")
        assert refuses(lambda: Recipe.alexnet(stats).export("openvino"))
        assert refuses(lambda: Recipe.zca(stats).export("openvino"))


def _doubling(ov):
    from openvino import opset13 as ops

    images = ops.parameter([-1, 3, -1, -1], ov.Type.f32, name="x")
    return ov.Model([ops.result(ops.multiply(images, ops.constant(np.float32(2))))], [images], "double")


def test_json_is_the_file(stats, tmp_path):
    recipe = Recipe.zca(stats)
    (tmp_path / "r.json").write_text(json.dumps(recipe.export("json")))
    assert Recipe.load(tmp_path / "r.json") == recipe


def test_unknown_targets_and_files(stats, tmp_path):
    with pytest.raises(fl.FirstlightError, match="albumentations"):
        Recipe.vgg(stats).export("caffe")
    (tmp_path / "x.json").write_text('{"a": 1}')
    with pytest.raises(fl.FirstlightError, match="neither"):
        Recipe.load(tmp_path / "x.json")
    with pytest.raises(fl.FirstlightError, match="4 channels"):
        Recipe.load({"mean": (0.1, 0.2, 0.3), "std": (1, 1, 1), "input_size": (4, 8, 8)})


def test_a_missing_library_is_named(stats, monkeypatch):
    monkeypatch.setitem(sys.modules, "keras", None)
    with pytest.raises(fl.FirstlightError, match="keras"):
        Recipe.vgg(stats).export("keras")
