"""Averages, maxima, joins and parts of signals whose sites are alike as far as they are close; by enumeration."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d, avg_pool2d, max_pool2d, pad
from wide_networks import Written

from firstlight.graph import trace
from firstlight.theory import InputMoments, walk
from firstlight.theory.inputs import WHITE_NOISE
from firstlight.theory.maps import Step
from firstlight.theory.signal import Gradient, Signal, scalar

SIDE, FAR = 8, 0.1
SHAPE, TOKENS = (4, 16, SIDE, SIDE), (4, 12, 16)
LAGS = np.maximum(1 - np.arange(4) / 3, 0)  # of white noise averaged over three sites
NEAR = np.multiply.outer(LAGS, LAGS)
CLOSE = InputMoments(far=FAR, near=NEAR)
Function = Callable[[Tensor], Tensor]


def steps(f: Function, shape: tuple[int, ...] = SHAPE, told: InputMoments = WHITE_NOISE) -> dict[str, Step]:
    return walk(trace(Written(f), torch.zeros(shape)), {}, told)[1]


def made(f: Function, shape: tuple[int, ...] = SHAPE, told: InputMoments = WHITE_NOISE) -> Signal:
    return list(steps(f, shape, told).values())[-1].signal


def white(rank: int, far: float = 0.0, **known: object) -> Gradient:
    return Gradient(scalar(1.0, rank), scalar(far, rank), **known)  # type: ignore[arg-type]


def kernel() -> np.ndarray:
    """E x x' of all pairs of sites."""
    places = np.stack(np.meshgrid(*2 * [np.arange(SIDE)], indexing="ij"), -1).reshape(-1, 2)
    lags = np.minimum(np.abs(places[:, None] - places), 3)
    return np.asarray(FAR + (1 - FAR) * NEAR[lags[..., 0], lags[..., 1]])


def matrix(f: Function) -> np.ndarray:
    """Of a linear function of the sites of one channel."""
    return f(torch.eye(SIDE**2, dtype=torch.float64).view(-1, 1, SIDE, SIDE)).flatten(1).T.numpy()


def inside(x: Tensor) -> Tensor:
    return avg_pool2d(x, 3, 1, 1, count_include_pad=False)


@pytest.mark.parametrize("f", [lambda x: x.mean((2, 3)), lambda x: adaptive_avg_pool2d(x, 4), lambda x: inside(x) - x])
def test_averages_of_close_sites(f: Function) -> None:
    a = matrix(f)
    assert float(made(f, told=CLOSE).second.mean()) == pytest.approx((a @ kernel() @ a.T).diagonal().mean(), rel=0.05)


def test_averages_over_two_windows_are_as_close_as_their_sites() -> None:
    a = matrix(lambda x: avg_pool2d(x, 2))
    k = (a @ kernel() @ a.T).reshape(4, 4, 4, 4)
    seen = [(k[0, 0, i, j] - FAR) / (k[0, 0, 0, 0] - FAR) for i, j in ((0, 1), (1, 1), (1, 0))]
    near = made(lambda x: avg_pool2d(x, 2), told=CLOSE).near
    assert near is not None
    assert [near[0, 1], near[1, 1], near[1, 0]] == pytest.approx(seen, rel=1e-6)
    rng = torch.Generator().manual_seed(0)
    y = max_pool2d(avg_pool2d(torch.randn(4000, 1, SIDE + 2, SIDE + 2, generator=rng), 3, 1) * 3, 2)
    y = y - y.mean()
    near = made(lambda x: max_pool2d(x, 2), told=InputMoments(near=NEAR)).near
    assert near is not None
    assert near[0, 1] == pytest.approx(float((y[..., 1:] * y[..., :-1]).mean() / y.square().mean()), abs=0.07)


def test_sites_of_a_sample_cancel_no_further_than_independent_ones() -> None:
    found = made(lambda x: x.mean((2, 3)), told=InputMoments(far=(-0.2, 0.0, 0.1, 0.5)))
    assert found.second[:, 0].tolist() == pytest.approx([1 / 64, 1 / 64, 1 / 64 + 6.3 / 64, 1 / 64 + 63 / 64 * 0.5])


def test_an_average_is_as_uneven_as_what_its_sites_share_and_its_gradient_stays_in_its_blocks() -> None:
    profile = torch.rand(4, 1, SIDE, SIDE, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    step = list(
        steps(
            lambda x: adaptive_avg_pool2d(x, 4), told=InputMoments(far=1.0, profile=profile / profile.mean())
        ).values()
    )[-1]
    blocks = avg_pool2d(profile.sqrt(), 2).square()  # of one number times the root of the profile
    assert step.signal.profile is not None
    torch.testing.assert_close(step.signal.profile, blocks / blocks.mean())
    uneven = torch.rand(4, 1, 4, 4, dtype=torch.float64)
    ((_, back, _),) = step.pull(white(4, profile=uneven))
    assert back.profile is not None
    torch.testing.assert_close(back.profile, uneven.repeat_interleave(2, 2).repeat_interleave(2, 3))


def test_padding_that_never_wins_makes_no_window_larger() -> None:
    def plain(x: Tensor) -> Tensor:
        return max_pool2d(x, 3, 1, 1)

    def padded(x: Tensor) -> Tensor:
        return max_pool2d(pad(x, (1, 1, 1, 1), value=-torch.inf), 3, 1)

    one, two = (made(f, (4, 8, 3, 3)) for f in (plain, padded))
    assert float(two.mean) == pytest.approx(float(one.mean))
    assert float(two.second) == pytest.approx(float(one.second))


def test_what_is_joined_is_close_and_skewed_on_average() -> None:
    found = made(lambda x: torch.cat([x, torch.randn_like(x)], 1), told=CLOSE)
    assert found.near is not None
    assert found.near[0, 1] == pytest.approx((1 - FAR) * NEAR[0, 1] / (1 - FAR + 1))
    skew = made(lambda x: x.relu()).skew
    assert made(lambda x: torch.cat([x, x[:, :8].relu()], 1)).skew == pytest.approx(skew / 3)


def test_rows_are_known_where_the_last_dimension_stays() -> None:
    def logits(x: Tensor) -> Tensor:
        return (x + 1) @ (x + 1).transpose(1, 2)

    known = made(logits, TOKENS).rows
    assert known is not None
    for f, stays in ((lambda x: logits(x).unsqueeze(1), True), (lambda x: logits(x).transpose(1, 2), False)):
        step = list(steps(f, TOKENS).values())[-1]
        rows = step.signal.rows
        assert (rows is not None) == stays
        assert rows is None or float(rows) == pytest.approx(float(known))
        ((_, back, _),) = step.pull(white(4 if stays else 3, rows=-0.2))
        assert back.rows == (-0.2 if stays else None)


def test_what_was_overwritten_gets_no_gradient() -> None:
    def f(x: Tensor) -> Tensor:
        y = x * 1.0
        y[:, :3] = x[:, 3:6].tanh()
        return y

    (_, kept, _), (_, written, _) = steps(f, TOKENS)["write"].pull(white(3, far=0.5))
    assert (float(written.second), float(written.far)) == (1.0, 0.5)
    assert float(kept.second.mean()) == pytest.approx(9 / 12)
    assert float(kept.far.mean()) == pytest.approx(0.5 * (9 / 12) ** 2)


def test_elements_that_were_chosen_get_the_gradient_of_all() -> None:
    index = torch.tensor([0, 2, 5])
    ((_, back, _),) = list(steps(lambda x: x.index_select(1, index), TOKENS).values())[-1].pull(white(3, far=0.5))
    assert float(back.second.mean()) == pytest.approx(3 / 12)
    assert float(back.far.mean()) == pytest.approx(0.5 * (3 / 12) ** 2)


def test_a_mask_is_one_or_nothing() -> None:
    def f(x: Tensor) -> Tensor:
        return x * x.new_empty(x.shape[0], 1, 1).bernoulli_(0.3)

    assert float(made(f, TOKENS).second.mean()) == pytest.approx(0.3)
