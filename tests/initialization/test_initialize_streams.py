"""Numbers by key and position: the published cipher, the published distributions, and any part like the whole."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import special, stats

from firstlight.initialization import philox
from firstlight.initialization.streams import (
    Box,
    Draw,
    Normal,
    Uniform,
    draw,
    draw_all,
    key,
    numbers,
    truncation_factor,
)
from firstlight.initialization.streams import _on_device as on_device


def test_the_cipher_gives_the_authors_known_answer() -> None:
    """Random123's kat_vectors: philox4x32, 10 rounds, counter and key zero; then the same with every bit set."""
    out = np.empty(64, np.uint32)
    philox.words(np.uint64(0), 0, 1, out)
    assert [hex(out[lane * 16]) for lane in range(4)] == ["0x6627e8d5", "0xe169c58d", "0xbc57ac4c", "0x9b00dbd8"]


@given(stream=st.integers(0, 2**64 - 1), group=st.integers(0, 2**40))
def test_tensor_operations_compute_the_same_numbers(stream: int, group: int) -> None:
    out = np.empty(128, np.uint32)
    philox.words(np.uint64(stream), group, 2, out)
    index = torch.arange(128) + 64 * group
    assert torch.equal(numbers(stream, index), torch.from_numpy(out.astype(np.int64)))


LAWS = [Normal(), Normal(0.5, 0.02), Normal(0, 1, -2, 2), Normal(0, 3, -0.5, 4), Uniform(-1, 3)]


@pytest.mark.parametrize("law", LAWS)
def test_an_accelerator_would_draw_the_same_up_to_rounding(law: Normal | Uniform) -> None:
    box = Box((9, 33, 7), (2, 5, 1), (6, 20, 5))
    out = torch.empty(600)
    starts, length = box.runs()
    on_device(law, key(0, "w"), out, starts, length)
    torch.testing.assert_close(out.view(box.size), draw(law, key(0, "w"), box), rtol=2e-6, atol=2e-6)


@st.composite
def boxes(draw_: st.DrawFn) -> Box:
    shape = tuple(draw_(st.lists(st.integers(1, 40), min_size=0, max_size=4)))
    offset = tuple(draw_(st.integers(0, n - 1)) for n in shape)
    return Box(shape, offset, tuple(draw_(st.integers(0, n - o)) for n, o in zip(shape, offset, strict=True)))


@given(box=boxes(), law=st.sampled_from(LAWS))
def test_any_part_is_that_part_of_the_whole(box: Box, law: Normal | Uniform) -> None:
    whole = draw(law, key(3, "x"), Box.whole(box.shape))
    cut = whole[tuple(slice(o, o + n) for o, n in zip(box.offset, box.size, strict=True))]
    assert torch.equal(draw(law, key(3, "x"), box), cut)


def test_the_number_of_threads_changes_nothing() -> None:
    box, threads = Box.whole((3, 1_100_003)), torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = draw(Normal(), 7, box)
        torch.set_num_threads(3)
        assert torch.equal(draw(Normal(), 7, box), one)
    finally:
        torch.set_num_threads(threads)


def test_tensors_drawn_side_by_side_are_those_drawn_alone() -> None:
    shapes = [(5,), (0, 3), (700, 900), (2, 400_001), ()]
    asked = [Draw(LAWS[k], key(0, f"{k}"), Box.whole(s), torch.full(s, torch.nan)) for k, s in enumerate(shapes)]
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        draw_all(asked)
    finally:
        torch.set_num_threads(threads)
    for one in asked:
        assert torch.equal(one.out, draw(one.law, one.stream, one.box))


def test_normal_numbers_are_normal() -> None:
    z = draw(Normal(), key(0, "z"), Box.whole((1_000_000,))).numpy()
    assert stats.kstest(z, "norm").pvalue > 0.01
    assert abs(stats.kurtosis(z)) < 4 * math.sqrt(24 / z.size)
    assert abs(np.corrcoef(z[:-1], z[1:])[0, 1]) < 4 / math.sqrt(z.size)
    raw = np.empty(1_000_000, np.uint32)
    philox.words(np.uint64(key(0, "z")), 0, raw.size // 64, raw)
    np.testing.assert_allclose(z, special.ndtri((raw + 0.5) / 2**32), rtol=1e-6)


@pytest.mark.parametrize(("low", "high"), [(-2, 2), (-1, 1), (-0.5, 3), (-4, 4)])
def test_truncated_numbers_are_those_of_scipy(low: float, high: float) -> None:
    z = draw(Normal(0, 1, low, high), key(0, "t"), Box.whole((400_000,))).numpy()
    law = stats.truncnorm(low, high)
    assert stats.kstest(z, law.cdf).pvalue > 0.01
    assert low <= z.min() <= z.max() <= high
    assert truncation_factor(low, high) == pytest.approx(law.std(), rel=1e-9)


def test_uniform_numbers_are_uniform() -> None:
    u = draw(Uniform(-1, 3), key(0, "u"), Box.whole((400_000,))).numpy()
    assert stats.kstest(u, stats.uniform(-1, 4).cdf).pvalue > 0.01


def test_names_and_seeds_have_streams_of_their_own() -> None:
    box = Box.whole((20_000,))
    one, name, seed = (draw(Normal(), key(s, n), box).numpy() for s, n in ((0, "a"), (0, "b"), (1, "a")))
    assert abs(np.corrcoef([one, name, seed])[np.triu_indices(3, 1)]).max() < 4 / math.sqrt(20_000)
