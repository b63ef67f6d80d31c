"""What a gradient, a maximum and a size know of pairs, borders and samples; each by enumeration or against draws."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from wide_networks import Written, normal

from firstlight.graph import trace
from firstlight.theory import InputMoments, as_they_are, walk
from firstlight.theory.axes import label
from firstlight.theory.elementwise import Elementwise, aten
from firstlight.theory.inputs import WHITE_NOISE
from firstlight.theory.maps import Context, Step
from firstlight.theory.maps.arithmetic import _by_factor
from firstlight.theory.maps.broadcast import reduced
from firstlight.theory.maps.pointwise import of_function, shown, slope_of, through
from firstlight.theory.mixture import mixed
from firstlight.theory.signal import Gradient, Signal, scalar
from firstlight.theory.taps import taps

RELU, SILU, TANH = (aten(name, {}) for name in ("relu", "silu", "tanh"))


def field(shape: tuple[int, ...], far: float = 0.0, other: float = 0.0, mean: float = 0.0, **known: object) -> Signal:
    """A Gaussian of variance one and these covariances."""
    axes = label(shape, {2: "bc", 4: "bcss"}[len(shape)])
    maps = (scalar(v, len(shape)) for v in (mean, 1 + mean**2, far + mean**2, other + mean**2))
    return Signal("x", shape, axes, *maps, **known)  # type: ignore[arg-type]


def context(samples: int) -> Context:
    return Context(trace(nn.Identity(), torch.zeros(samples, 4)), samples, training=True)


def steps_of(model: nn.Module, shape: tuple[int, ...], told: InputMoments = WHITE_NOISE) -> dict[str, Step]:
    return walk(trace(model, torch.zeros(shape)), as_they_are(model), told)[1]


def last(model: nn.Module, shape: tuple[int, ...], told: InputMoments = WHITE_NOISE) -> Step:
    return list(steps_of(model, shape, told).values())[-1]


def white(rank: int, far: float = 0.0, **known: object) -> Gradient:
    return Gradient(scalar(1.0, rank), scalar(far, rank), **known)  # type: ignore[arg-type]


@pytest.mark.parametrize(("other", "numbers"), [(0.0, 8 * 64), (1.0, 64)])
def test_slopes_vary_as_the_mean_of_so_many_of_them(other: float, numbers: int) -> None:
    found = through(field((8, 64), other=other), RELU, white(2, spread=0.25), context(8))
    assert found.spread - 0.25 == pytest.approx(1 / numbers)  # a square is one or nothing, each for one half


def test_a_gradient_that_is_shown_meets_the_slopes_where_it_is_large() -> None:
    rng = torch.Generator().manual_seed(0)
    profile, weight = (torch.rand(4, 1, 20, 20, generator=rng, dtype=torch.float64) ** 3 for _ in range(2))
    profile, weight = profile / profile.mean(), weight * profile / (weight * profile).mean()
    x = field((4, 8, 20, 20), profile=profile)
    y = of_function(trace(nn.SiLU(), torch.zeros(x.shape)).operations[0], context(4), x, SILU)
    outer = Elementwise("outer", lambda z: z**2)
    z = Signal("z", x.shape, x.axes, *y.maps(), base=x, function=outer.after(SILU), steps=((y, slope_of(outer, SILU)),))
    (flow,) = shown(z, None, white(4, profile=weight))
    drawn = torch.randn(4, 100, 20, 20, generator=rng) * profile.sqrt()
    seen = (weight * (2 * nn.functional.silu(drawn)).square()).mean()
    assert float(flow[1].second) == pytest.approx(float(seen), rel=0.03)
    (plain,) = shown(z, None, white(4))
    assert float(plain[1].second) < 0.7 * float(seen)


def test_levels_count_by_the_gradients_of_all_samples() -> None:
    rng = torch.Generator().manual_seed(0)
    profile = torch.rand(1, 1, 20, 20, generator=rng, dtype=torch.float64) ** 3
    weight = torch.rand(4, 1, 20, 20, generator=rng, dtype=torch.float64) ** 4
    weight[1:] = weight[1:] * profile**2
    profile, weight = profile / profile.mean(), weight / weight.mean()
    found = mixed(field((4, 8, 20, 20), profile=profile), TANH, weight)
    slopes = (1 - torch.tanh(torch.randn(2000, 1, 20, 20, generator=rng) * profile.sqrt()) ** 2).square().mean(0)
    assert float(found.chi[0]) == pytest.approx(float((weight * slopes).mean()), rel=0.02)


def test_a_size_varies_as_its_root_does() -> None:
    model = Written(lambda x: (x.square().mean(-1, keepdim=True) + 1).sqrt())
    found = last(model, (4, 12, 64)).signal
    drawn = np.sqrt(np.random.default_rng(0).chisquare(64, 200_000) / 64 + 1)
    assert float((found.second - found.mean**2).mean()) == pytest.approx(drawn.var(), rel=0.05)


class Three(nn.Module):
    """The sum of two sums that share a layer."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(normal(nn.Linear(64, 64, bias=False)) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        one, two, both = (layer(x) for layer in self.layers)
        return (one + both) + (two + both)


def test_a_gradient_leans_by_what_an_operand_shares_with_the_other_too() -> None:
    model = Three()
    graph = trace(model, torch.zeros(2, 64))
    steps = walk(graph, {name: (0.0, 1 / 64) for name, _ in model.named_parameters()})[1]
    flows = steps[graph.outputs[0]].pull(white(2, lean=0.4))
    assert [g.lean for _, g, _ in flows] == pytest.approx(2 * [0.4 * 3 / math.sqrt(2 * 6)])  # of (a+c) + (b+c), a+c


def test_samples_that_are_alike_swing_together() -> None:
    model = Written(lambda x: x * torch.sigmoid(4 * x.mean((2, 3), keepdim=True)))
    rng, own = np.random.default_rng(0), 1 / 30 + 29 / 30 * 0.5
    both = rng.standard_normal((3, 400_000))
    one, two = (1 / (1 + np.exp(-4 * (math.sqrt(0.3) * both[0] + math.sqrt(own - 0.3) * z))) for z in both[1:])
    swing = last(model, (4, 8, 5, 6), InputMoments(far=0.5, other=0.3)).signal.swing
    assert swing == pytest.approx(1 - (one * two).mean() / (one**2).mean(), rel=0.03)


def test_a_gate_collects_what_close_sites_have_in_common() -> None:
    shape, far, alike = (4, 8, 5, 6), 0.3, 0.2
    near = np.array([[1.0, 0.6, 0.2], [0.5, 0.3, 0.1]])
    x = field(shape, far=far, near=near)
    places = np.stack(np.meshgrid(np.arange(5), np.arange(6), indexing="ij"), -1).reshape(-1, 2)
    lags = np.abs(places[:, None] - places)
    close = np.zeros((30, 30))
    for at, r in np.ndenumerate(near):
        close[(lags == at).all(-1)] = r
    kernel, of_gradient = far + (1 - far) * close, alike + (1 - alike) * np.eye(30)
    gate = field((4, 8, 1, 1))
    found = reduced(_by_factor(white(4, alike), x, gate, shape), gate, shape, x.axes)
    assert float(found.second) == pytest.approx((kernel * of_gradient).sum())


@pytest.mark.parametrize("white_data", [False, True])
def test_a_measured_covariance_takes_less_of_a_norm_back(white_data: bool) -> None:
    rng, count, samples, draws = np.random.default_rng(0), 9, 24, 20_000
    near = None if white_data else np.array([[1.0, 0.5, 0.1], [0.5, 0.25, 0.05], [0.1, 0.05, 0.01]])
    places = np.stack(np.meshgrid(*2 * [np.arange(3)], indexing="ij"), -1).reshape(-1, 2)
    lags = np.abs(places[:, None] - places)
    r = np.eye(count) if near is None else near[lags[..., 0], lags[..., 1]]
    found = taps(field((4, 8, 9, 9), near=near), (3, 3), (1, 1), (1, 1), 1.0, alike=1 / samples)
    x = rng.standard_normal((draws, samples, count)) @ np.linalg.cholesky(r).T
    weights = rng.standard_normal((draws, count))
    size = ((x @ weights[..., None]) ** 2).mean((1, 2))
    seen = ((weights**2).sum(1) / size).mean()
    squares = np.mean(np.square(found.broad)) / count
    covariance = x.swapaxes(1, 2) @ x / samples
    assert squares == pytest.approx(np.square(covariance).sum((1, 2)).mean() / count**2, rel=0.02)
    assert found.returned(0.0) == pytest.approx(seen, rel=0.1)


def test_logits_hand_queries_and_keys_nothing_of_what_all_others_share() -> None:
    tokens, width, far = 4, 16, 0.6
    told = InputMoments(far=far)
    step = last(Written(lambda x: x @ (2 * x).transpose(1, 2)), (3, tokens, width), told)
    (_, query, _), (_, key, _) = step.pull(white(3, rows=-1 / (tokens - 1)))
    assert float(query.second.mean()) == pytest.approx(4 * tokens * (1 - far))
    assert float(key.second.mean()) == pytest.approx(tokens)
    (_, query, _), (_, key, _) = step.pull(white(3, far=0.5))
    assert float(key.second.mean()) == pytest.approx(tokens * (1 + (tokens - 1) * 0.5 * far))


def test_windows_at_a_border_have_fewer_to_choose_from() -> None:
    def pool(x: Tensor) -> Tensor:
        return nn.functional.max_pool2d(x, 3, 1, 1)

    found = last(Written(pool), (4, 8, 3, 3)).signal
    seen = pool(torch.randn(200_000, 1, 3, 3, generator=torch.Generator().manual_seed(0)))
    assert float(found.mean.mean()) == pytest.approx(float(seen.mean()), rel=0.01)
    assert float(found.second.mean()) == pytest.approx(float(seen.square().mean()), rel=0.01)


def test_the_gradient_by_weights_before_a_norm_varies_as_their_sizes_do() -> None:
    weights, channels = 16, 8
    model = nn.Sequential(normal(nn.Linear(weights, channels, bias=False)), nn.BatchNorm1d(channels))
    graph = trace(model, torch.zeros(4096, weights))
    steps = walk(graph, {"0.weight": (0.0, 1 / weights)} | {"1.weight": (1.0, 1.0), "1.bias": (0.0, 0.0)})[1]
    ((_, back, _),) = steps[graph.outputs[0]].pull(white(2))
    sizes = np.random.default_rng(0).chisquare(weights, (40_000, channels))
    assert back.spread == pytest.approx(float(np.var((1 / sizes).mean(1)) / (1 / sizes).mean() ** 2), rel=0.1)
