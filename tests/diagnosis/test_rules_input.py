"""Faults of the images are found and named; healthy ways to feed images are silent."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from cases import (
    CIFAR,
    HALF,
    IMAGENET,
    MNIST,
    case,
    codes,
    convnet,
    digits,
    normalized,
    only,
    photographs,
    still,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import firstlight as fl
from firstlight.diagnosis import Finding, NotChecked, all_rules, diagnose
from firstlight.diagnosis.pixels import pixels
from firstlight.diagnosis.rules.constant_images import ConstantImages
from firstlight.diagnosis.rules.dead_channel import DeadChannel
from firstlight.diagnosis.rules.duplicate_images import DuplicateImages
from firstlight.diagnosis.rules.foreign_constants import ForeignConstants
from firstlight.diagnosis.rules.nonfinite_input import NonfiniteInput
from firstlight.diagnosis.rules.normalized_twice import NormalizedTwice
from firstlight.diagnosis.rules.swapped_channels import SwappedChannels
from firstlight.diagnosis.rules.swapped_layout import SwappedLayout
from firstlight.diagnosis.rules.unnormalized_input import UnnormalizedInput
from firstlight.diagnosis.rules.wrong_dtype import WrongDtype

INPUT = tuple(rule for rule in all_rules() if rule.code.startswith("FL10") or rule.code == "FL110")
OWN = ((0.39, 0.43, 0.39), (0.33, 0.28, 0.31))
REVERSED = tuple(values[::-1] for values in IMAGENET)


def constants(images: Tensor, values: tuple[tuple[float, ...], ...]) -> Tensor:
    """(x − mean)/std of whatever the images are."""
    mean, std = (torch.tensor(v).view(1, -1, 1, 1) for v in values)
    return (images - mean) / std


def resized(images: Tensor, side: int = 48) -> Tensor:
    """Resized as floats, in 0…255: no gray levels are left."""
    return F.interpolate(images.float(), side, mode="bilinear", antialias=True)


def whitened(images: Tensor) -> Tensor:
    """ZCA over channels."""
    x = images.float() / 255
    x = x - x.mean((0, 2, 3), keepdim=True)
    values, vectors = torch.linalg.eigh(torch.cov(x.permute(1, 0, 2, 3).reshape(3, -1)))
    return torch.einsum("ij,njhw->nihw", vectors @ torch.diag(values.rsqrt()) @ vectors.T, x)


def sixteen_bit(seed: int = 0) -> Tensor:
    """Smooth 12-bit images as medical scanners give them, int32 ``[8, 1, 64, 64]``."""
    noise = torch.rand((8, 1, 64, 64), generator=torch.Generator().manual_seed(seed)) * 4095
    return F.avg_pool2d(noise, 5, 1, 2).round().int()


def stretched(low: float, high: float) -> Tensor:
    """Normal noise with these extremes in every channel."""
    noise = torch.randn((8, 3, 32, 32), generator=torch.Generator().manual_seed(1))
    smallest, largest = noise.amin((0, 2, 3), keepdim=True), noise.amax((0, 2, 3), keepdim=True)
    return (noise - smallest) / (largest - smallest) * (high - low) + low


PHOTOS, DIGITS = photographs(), digits()[0]
HEALTHY = {
    "imagenet": normalized(PHOTOS),
    "imagenet, large": normalized(photographs(4, 224)),
    "minus one to one": normalized(PHOTOS, HALF),
    "cifar": normalized(photographs(32, 32), CIFAR),
    "own constants": normalized(PHOTOS, OWN),
    "mnist": normalized(DIGITS, MNIST),
    "zca": whitened(PHOTOS),
    "mean only": PHOTOS.float() / 255 - 0.4,
    "resized floats": constants(resized(PHOTOS) / 255, IMAGENET),
    "resized with overshoot": constants(F.interpolate(PHOTOS.float(), 80, mode="bicubic") / 255, IMAGENET),
    "noise": torch.randn((8, 3, 32, 32), generator=torch.Generator().manual_seed(0)),
    "noise in the range of two normalizations": stretched(-3.9, 3.9),
    "16 bit": (sixteen_bit().float() - sixteen_bit().float().mean()) / sixteen_bit().float().std(),
    "padded": F.pad(normalized(PHOTOS), (4, 4, 4, 4)),
    "gray": normalized(PHOTOS)[:, :1],
    "six channels": torch.cat([normalized(PHOTOS), normalized(PHOTOS, OWN)], 1),
    "transposed": normalized(PHOTOS).transpose(2, 3),
    "channels last in memory": normalized(PHOTOS).contiguous(memory_format=torch.channels_last),
    "jittered": constants(
        (PHOTOS.float() / 255 * torch.linspace(0.8, 1.2, 16).view(-1, 1, 1, 1)).clamp(0, 1), IMAGENET
    ),
}


@pytest.mark.parametrize("name", HEALTHY)
def test_healthy_images_are_silent(name: str) -> None:
    diagnosis = diagnose(still(HEALTHY[name]), INPUT)
    assert [finding for finding in diagnosis.findings if finding.severity != "note"] == []
    assert {"FL101", "FL102", "FL105", "FL106", "FL107", "FL108", "FL109", "FL110"} <= set(diagnosis.clean)


def test_constants_are_read_off_the_images() -> None:
    for values in (IMAGENET, CIFAR, OWN, HALF):
        step = pixels(still(normalized(PHOTOS, values))).step
        assert step is not None
        np.testing.assert_allclose(1 / step / 255, values[1], rtol=1e-4)
    assert pixels(still(HEALTHY["resized floats"])).step is None
    assert pixels(still(HEALTHY["noise"])).step is None
    palette = torch.randn(20, generator=torch.Generator().manual_seed(1))  # few values, and no lattice
    assert pixels(still(palette[PHOTOS.long() % 20])).step is None


@settings(max_examples=15)
@given(st.lists(st.floats(0.1, 0.6), min_size=3, max_size=3), st.lists(st.floats(0.15, 0.4), min_size=3, max_size=3))
def test_the_lattice_gives_any_std(mean: list[float], std: list[float]) -> None:
    step = pixels(still(normalized(PHOTOS[:4], (mean, std)))).step
    assert step is not None
    np.testing.assert_allclose(1 / step / 255, std, rtol=1e-4)


@pytest.mark.parametrize(
    ("images", "words", "severity"),
    [
        (PHOTOS, "raw pixels, 0…255", "fail"),
        (PHOTOS.float(), "raw pixels, 0…255", "fail"),
        (resized(PHOTOS), "raw pixels, 0…255", "fail"),
        (sixteen_bit(), "raw pixels, 0…", "fail"),
        (PHOTOS.float() / 255, "x/255 and nothing else", "note"),
        (resized(PHOTOS) / 255, "x/255 and nothing else", "note"),
        (constants(PHOTOS.float(), IMAGENET), "the constants of ImageNet, which are for 0…1, on raw pixels", "fail"),
        (PHOTOS.float() * 257 / 255, "16-bit pixels divided by 255", "fail"),
        (PHOTOS.float() - 117, "raw pixels minus a mean", "fail"),
        (normalized(PHOTOS).clamp(0, 1), "normalized values were clipped to 0 … 1", "fail"),
        (normalized(PHOTOS, OWN).clamp(-1, 1), "normalized values were clipped to -1 … 1", "fail"),
        (torch.rand(8, 3, 32, 32) * 40 - 20, "second moment 1", "fail"),
        (torch.rand(8, 1, 32, 32) * 0.01 + 3, "of the input's energy", "fail"),
    ],
)
def test_unnormalized(images: Tensor, words: str, severity: str) -> None:
    finding = only(UnnormalizedInput(), still(images))
    assert words in finding.title
    assert finding.severity == severity


def test_scaled_only_is_a_fault_where_more_was_declared_and_clean_where_not() -> None:
    unit = PHOTOS.float() / 255
    assert only(UnnormalizedInput(), still(unit, mean=IMAGENET[0], std=IMAGENET[1])).severity == "fail"
    assert codes(UnnormalizedInput(), still(unit, mean=(0.0,) * 3, std=(1.0,) * 3)) == []


@pytest.mark.parametrize(("norm", "severity"), [(True, "note"), (False, "warn")])
def test_scaled_only_matters_where_no_batch_norm_takes_the_mean_away(norm: bool, severity: str) -> None:
    labels = torch.arange(16) % 10
    assert only(UnnormalizedInput(), case(convnet(norm=norm), PHOTOS.float() / 255, labels)).severity == severity


class Standardizing(nn.Module):
    """Begins with the arithmetic that others leave to the data set."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(IMAGENET[0]).view(1, 3, 1, 1) * 255)
        self.body = convnet()

    def forward(self, images: Tensor) -> Tensor:
        return self.body((images.float() - self.mean) / 58.0)


@pytest.mark.parametrize(
    "model",
    [nn.Sequential(nn.BatchNorm2d(3), convnet()), nn.Sequential(nn.InstanceNorm2d(3), convnet()), Standardizing()],
)
def test_networks_that_normalize_their_input_may_get_raw_pixels(model: nn.Module) -> None:
    looked_at = case(model, PHOTOS.float(), torch.arange(16) % 10)
    assert codes(UnnormalizedInput(), looked_at) == []
    if isinstance(model, Standardizing):
        assert codes(WrongDtype(), case(model, PHOTOS, torch.arange(16) % 10)) == []


@pytest.mark.parametrize(
    ("images", "words"),
    [
        (PHOTOS / 255 / 255, "x/255 applied twice"),
        (resized(PHOTOS) / 255 / 255, "x/255 applied twice"),
        (DIGITS / 255 / 255, "x/255 applied twice"),
        (constants(PHOTOS / 255 / 255, IMAGENET), "x/255 applied twice, then the constants of ImageNet"),
        (constants(normalized(PHOTOS), IMAGENET), "the constants of ImageNet applied twice"),
        (constants(HEALTHY["resized floats"], IMAGENET), "the constants of ImageNet applied twice"),
        (constants(normalized(PHOTOS, CIFAR), CIFAR), "the constants of CIFAR-10 with averaged std applied twice"),
        (constants(normalized(PHOTOS, HALF), HALF), "the constants of Inception applied twice"),
        (constants(normalized(DIGITS, MNIST), MNIST), "the constants of MNIST applied twice"),
        (constants(normalized(PHOTOS, HALF), IMAGENET), "the constants of Inception applied, then those of ImageNet"),
        (constants(normalized(PHOTOS, OWN), OWN), "mean 0.39 0.43 0.39 and std 0.33 0.28 0.31 applied twice"),
    ],
)
def test_normalized_twice_is_named(images: Tensor, words: str) -> None:
    finding = only(NormalizedTwice(), still(images))
    assert finding.title.startswith(words)
    assert (finding.severity, finding.where) == ("fail", "input")


def repaired(images: Tensor, finding: Finding) -> Tensor:
    assert finding.repair is not None
    values = finding.repair.values
    scale, shift = (torch.tensor(values[key], dtype=torch.float64).view(1, -1, 1, 1) for key in ("scale", "shift"))
    return images[:, values.get("order", [*range(images.shape[1])])].double() * scale + shift


@settings(max_examples=15)
@given(
    st.lists(st.floats(0.2, 0.6), min_size=3, max_size=3),
    st.lists(st.floats(0.15, 0.35), min_size=3, max_size=3),
    st.sampled_from(["raw", "unit", "div", "twice", "range"]),
)
def test_the_repair_gives_what_was_declared(mean: list[float], std: list[float], fault: str) -> None:
    declared = (mean, std)
    x = PHOTOS[:4].float()
    images, rule = {
        "raw": (x, UnnormalizedInput()),
        "unit": (x / 255, UnnormalizedInput()),
        "range": (constants(x, declared), UnnormalizedInput()),
        "div": (x / 255 / 255, NormalizedTwice()),
        "twice": (constants(normalized(x, declared), declared), NormalizedTwice()),
    }[fault]
    finding = only(rule, still(images, mean=tuple(mean), std=tuple(std)))
    torch.testing.assert_close(repaired(images, finding).float(), normalized(x, declared), atol=1e-3, rtol=1e-3)


def test_swapped_images_are_found_by_statistics_and_the_repair_turns_them_around() -> None:
    images = photographs(32)
    images[:, 2] = (images[:, 2] * 0.7).byte()  # less blue: a difference that a batch can show
    statistics = fl.scan(images.permute(0, 2, 3, 1).contiguous().numpy())
    right = normalized(images, OWN)
    wrong = normalized(images.flip(1), OWN)
    declared = {"mean": OWN[0], "std": OWN[1]}
    assert codes(SwappedChannels(), still(right, statistics=statistics, **declared)) == []
    finding = only(SwappedChannels(), still(wrong, statistics=statistics, **declared))
    assert (finding.severity, "BGR for RGB" in finding.title) == ("warn", True)
    torch.testing.assert_close(repaired(wrong, finding).float(), right, atol=1e-5, rtol=1e-5)
    assert codes(SwappedChannels(), still(images.float() / 255, statistics=statistics)) == []
    assert codes(SwappedChannels(), still(images.flip(1).float() / 255, statistics=statistics)) == [("warn", "input")]


def test_reversed_constants_are_read_off_the_gray_levels() -> None:
    images = normalized(PHOTOS, REVERSED)
    finding = only(SwappedChannels(), still(images))
    assert "the constants of ImageNet were applied in BGR order" in finding.title
    torch.testing.assert_close(repaired(images, finding).float(), normalized(PHOTOS), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", ["own constants", "minus one to one", "gray", "zca"])
def test_the_order_of_channels_is_not_guessed(name: str) -> None:
    with pytest.raises(NotChecked):
        list(SwappedChannels().examine(still(HEALTHY[name])))


@pytest.mark.parametrize("values", [IMAGENET, CIFAR, None])
@pytest.mark.parametrize("side", [32, 33, 64])
def test_reshaped_images_are_found(values: tuple[tuple[float, ...], ...] | None, side: int) -> None:
    arrays = photographs(8, side).permute(0, 2, 3, 1).contiguous()
    scrambled = arrays.reshape(8, 3, side, side)
    images = scrambled.float() if values is None else normalized(scrambled, values)
    finding = only(SwappedLayout(), still(images))
    assert (finding.severity, finding.where) == ("fail", "input")
    assert "permute(0, 3, 1, 2)" in finding.fix


def test_channels_last_are_found_by_their_shape_unless_the_network_takes_them() -> None:
    images = normalized(PHOTOS).permute(0, 2, 3, 1).contiguous()
    labels = torch.arange(16) % 10
    assert codes(SwappedLayout(), case(convnet(), images, labels)) == [("fail", "input")]
    taking = nn.Sequential(Turn(), convnet())
    assert codes(SwappedLayout(), case(taking, images, labels)) == []


class Turn(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        return images.permute(0, 3, 1, 2)


def test_stripes_of_period_three_are_no_scrambled_layout() -> None:
    stripes = torch.zeros(8, 3, 48, 48)
    stripes[..., ::3] = 1.0
    assert codes(SwappedLayout(), still(stripes + 0.01 * torch.rand(8, 1, 48, 48))) == []


@pytest.mark.parametrize(
    ("images", "model", "severity"),
    [
        (PHOTOS, convnet(), "fail"),
        (PHOTOS.int(), convnet(), "fail"),
        ((PHOTOS.int() * 257).to(torch.uint16), convnet(), "fail"),
        (normalized(PHOTOS).long(), convnet(), "fail"),
        (normalized(PHOTOS).double(), convnet(), "fail"),
        (normalized(PHOTOS).double(), convnet().double(), "note"),
    ],
)
def test_wrong_dtype(images: Tensor, model: nn.Module, severity: str) -> None:
    assert only(WrongDtype(), case(model, images, torch.arange(16) % 10)).severity == severity


@pytest.mark.parametrize(("count", "severity"), [(16, "fail"), (8, "warn"), (2, "note")])
def test_constant_images(count: int, severity: str) -> None:
    images = normalized(PHOTOS)
    images[:count] = torch.linspace(-1, 1, 3).view(1, 3, 1, 1)
    assert only(ConstantImages(), still(images)).severity == severity


@pytest.mark.parametrize(("copies", "severity"), [(16, "fail"), (2, "warn"), (0, "note")])
def test_duplicate_images(copies: int, severity: str) -> None:
    images = normalized(PHOTOS)
    if copies:
        images = images.repeat_interleave(copies, 0)[:16]
    else:
        images[3] = images[7]
    assert only(DuplicateImages(), still(images)).severity == severity


@pytest.mark.parametrize(("value", "channels", "severity"), [(0.0, 3, "fail"), (-2.1, 3, "fail"), (1.0, 4, "warn")])
def test_dead_channel(value: float, channels: int, severity: str) -> None:
    images = normalized(PHOTOS)
    images = torch.cat([images, images[:, :1]], 1) if channels == 4 else images
    images[:, channels - 1] = value
    assert only(DeadChannel(), still(images)).severity == severity


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_nonfinite_input(value: float) -> None:
    images = normalized(PHOTOS)
    images[3, 1, 5, 7] = value
    finding = only(NonfiniteInput(), still(images))
    assert "1 of" in finding.title
    assert "[3]" in finding.evidence
    with pytest.raises(NotChecked, match="not finite"):
        list(UnnormalizedInput().examine(still(images)))


def test_foreign_constants_against_statistics_declared_ones_and_the_images_themselves() -> None:
    statistics = fl.scan(PHOTOS.permute(0, 2, 3, 1).contiguous().numpy())
    mnist = tuple(values * 3 for values in MNIST)
    foreign = normalized(PHOTOS, mnist)
    imagenet, declared = ({"mean": mean, "std": std} for mean, std in (IMAGENET, mnist))
    for facts in ({"statistics": statistics}, imagenet, declared, {}):
        finding = only(ForeignConstants(), still(foreign, **facts))
        assert (finding.severity, "MNIST" in finding.title) == ("warn", True)
    # Constants of other photographs make no difference that matters.
    assert codes(ForeignConstants(), still(normalized(PHOTOS, CIFAR))) == []
    # Bright images under ImageNet's constants have a mean of two std: it matters where nothing takes it away.
    bright = normalized((255 - photographs(32).int() // 3).byte())
    labels = torch.arange(32) % 10
    assert codes(ForeignConstants(), case(convnet(norm=False), bright, labels)) == [("warn", "input")]
    assert codes(ForeignConstants(), case(convnet(norm=True), bright, labels)) == [("note", "input")]
    # The std is known from the lattice even where nobody published the constants.
    own = normalized(PHOTOS, OWN)
    assert only(ForeignConstants(), still(own, mean=IMAGENET[0], std=IMAGENET[1])).severity == "warn"
    assert codes(ForeignConstants(), still(own, mean=OWN[0], std=OWN[1])) == []


def test_without_images_nothing_is_checked() -> None:
    vectors = still(torch.randn(4, 10))
    for rule in INPUT:
        if rule.code == "FL110":
            assert list(rule.examine(vectors)) == []
        else:
            with pytest.raises(NotChecked):
                list(rule.examine(vectors))
