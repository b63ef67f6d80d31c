"""A statistic is a value with `+`: for integers the same bits in any order and grouping, for floats nearly so."""

import json
from functools import reduce
from operator import add
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from firstlight.statistics import Provenance, Statistics, Tally, observe

NOWHERE = Provenance((), "", "none", "", "mask", "as stored", None, "", "", "")
Sample = tuple[np.ndarray, np.ndarray | None]


def tally_of(sample: Sample) -> Tally:
    """The tally of one image."""
    image, valid = sample
    joint = observe([image], None if valid is None else [valid])
    return Tally({(joint.histogram.kind, joint.channels): joint})


def tally_at_once(samples: list[Sample]) -> Tally:
    """The tally of images that are counted in one call per kind, as a block is."""
    tally = Tally()
    for key in dict.fromkeys((s[0].dtype.name, s[0].shape[2]) for s in samples):
        same = [s for s in samples if (s[0].dtype.name, s[0].shape[2]) == key]
        masks = [s[1] for s in same]
        joint = observe([s[0] for s in same], None if all(m is None for m in masks) else masks)
        tally = tally + Tally({(joint.histogram.kind, joint.channels): joint})
    return tally


def bits(tally: Tally) -> str:
    """All that a tally holds, as text: equal text, equal bits."""
    return json.dumps(tally.to_dict())


@st.composite
def integer_samples(draw: Any) -> list[Sample]:
    """Gray and RGB images of 8 and 16 bits, of a few sizes, some of them masked."""
    samples = []
    for _ in range(draw(st.integers(1, 7))):
        dtype = draw(st.sampled_from([np.uint8, np.uint8, np.uint16]))
        shape = (*draw(st.sampled_from([(2, 3), (2, 3), (1, 1), (4, 9), (1, 35)])), draw(st.sampled_from([1, 3])))
        extreme = st.sampled_from([0, 1, int(np.iinfo(dtype).max)])
        image = draw(hnp.arrays(dtype, shape, elements=extreme | st.integers(0, int(np.iinfo(dtype).max))))
        samples.append((image, draw(st.none() | hnp.arrays(bool, shape))))
    return samples


@settings(max_examples=60)
@given(integer_samples(), st.randoms(use_true_random=False), st.data())
def test_integers_any_partition_order_and_grouping_give_the_same_bits(samples: list, random: Any, data: Any) -> None:
    whole = bits(tally_at_once(samples))
    # One by one, from the left and from the right.
    singles = [tally_of(sample) for sample in samples]
    assert bits(reduce(add, singles)) == whole
    assert bits(reduce(lambda a, b: b + a, singles)) == whole
    # In any order.
    shuffled = random.sample(samples, len(samples))
    assert bits(tally_at_once(shuffled)) == whole
    # Cut in two anywhere, each part counted at once.
    cut = data.draw(st.integers(0, len(samples)))
    assert bits(tally_at_once(shuffled[:cut]) + tally_at_once(shuffled[cut:])) == whole
    # Any tree of additions.
    parts = [tally_of(sample) for sample in shuffled]
    while len(parts) > 1:
        k = random.randrange(len(parts) - 1)
        parts[k : k + 2] = [parts[k] + parts[k + 1]]
    assert bits(parts[0]) == whole


@settings(max_examples=30)
@given(integer_samples())
def test_the_empty_tally_is_neutral_and_nothing_is_changed_in_place(samples: list) -> None:
    tally = tally_at_once(samples)
    before = bits(tally)
    assert bits(Tally() + tally) == before
    assert bits(tally + Tally()) == before
    doubled = tally + tally
    assert bits(tally) == before
    assert doubled.count == 2 * tally.count


@settings(max_examples=30)
@given(integer_samples())
def test_a_tally_survives_json_bit_by_bit(samples: list) -> None:
    tally = tally_at_once(samples)
    back = Tally.from_dict(json.loads(bits(tally)))
    assert bits(back) == bits(tally)
    assert bits(back + back) == bits(tally + tally)


@settings(max_examples=30)
@given(integer_samples())
def test_integer_statistics_agree_with_their_floats(samples: list) -> None:
    """The same pixels as integers and as floats go through entirely different code."""
    only = [s for s in samples if s[0].shape[2] == samples[0][0].shape[2] and s[0].dtype == samples[0][0].dtype]
    exact = Statistics(tally_at_once(only), NOWHERE)
    floats = Statistics(tally_at_once([(i.astype(np.float64), m) for i, m in only]), NOWHERE)
    scale = exact.full_scale
    for name in ("mean", "std", "min", "max", "per_image_std", "confidence"):
        a, b = getattr(exact, name) * scale, getattr(floats, name)
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-6 * (name == "confidence") + 1e-9, err_msg=name)
    np.testing.assert_allclose(exact.covariance * scale**2, floats.covariance, rtol=1e-9, atol=1e-6)


@st.composite
def float_images(draw: Any) -> list[np.ndarray]:
    """Float images of one channel count and a few sizes, some values not finite."""
    channels = draw(st.sampled_from([1, 3]))
    finite = st.floats(-1000, 1000, width=32).filter(lambda x: x == 0 or abs(x) > 1e-3)
    values = finite | st.sampled_from([np.nan, np.inf])
    shapes = st.sampled_from([(2, 3, channels), (2, 3, channels), (5, 7, channels)])
    return [draw(hnp.arrays(np.float32, draw(shapes), elements=values)) for _ in range(draw(st.integers(2, 6)))]


@settings(max_examples=40)
@given(float_images(), st.data())
def test_floats_any_partition_is_close(images: list, data: Any) -> None:
    cut = data.draw(st.integers(1, len(images) - 1))
    whole = Statistics(Tally({("float", images[0].shape[2]): observe(images)}), NOWHERE)
    parts = observe(images[cut:]) + observe(images[:cut])
    other = Statistics(Tally({("float", images[0].shape[2]): parts}), NOWHERE)
    np.testing.assert_array_equal(whole.histogram, other.histogram)
    np.testing.assert_array_equal(whole.pixels, other.pixels)
    np.testing.assert_array_equal(whole.min, other.min)
    np.testing.assert_array_equal(whole.max, other.max)
    spread = float(np.nanmax(np.abs(whole.max - whole.min), initial=1e-300))
    for name in ("mean", "std", "per_image_std"):
        a, b = getattr(whole, name), getattr(other, name)
        np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12 * spread, err_msg=name)
    # A variance near zero is known to the square of the spread; its root to the root of that.
    np.testing.assert_allclose(whole.covariance, other.covariance, rtol=1e-12, atol=1e-12 * spread**2)
    assert (whole.mean_image is None) == (other.mean_image is None)
    if whole.mean_image is not None:
        np.testing.assert_allclose(whole.mean_image, other.mean_image, rtol=1e-12, atol=1e-12 * spread)
        np.testing.assert_allclose(whole.std_image, other.std_image, rtol=1e-7, atol=1e-7 * spread)
