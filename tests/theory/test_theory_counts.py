"""What rules are made of, piece by piece: counts of pairs and weights, variances over draws, places of a gradient."""

import math
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
import torch
from test_theory_operations import FAR, INPUTS, MEAN, OTHER, inputs
from torch import Tensor, nn
from wide_networks import Written, normal

from firstlight.graph import trace
from firstlight.theory import InputMoments, as_they_are, walk
from firstlight.theory.axes import label, lag_weights
from firstlight.theory.elementwise import aten
from firstlight.theory.inputs import WHITE_NOISE
from firstlight.theory.maps.attention import pair_along
from firstlight.theory.maps.weights import returned
from firstlight.theory.mixture import mixed
from firstlight.theory.signal import Gradient, Signal, scalar
from firstlight.theory.taps import Taps


def signals(model: nn.Module, example: Tensor, told: InputMoments = WHITE_NOISE) -> dict[str, Signal]:
    return walk(trace(model, example), as_they_are(model), told)[0].signals


def last(model: nn.Module, example: Tensor, told: InputMoments = WHITE_NOISE) -> Signal:
    return list(signals(model, example, told).values())[-1]


def test_lags_are_shared_by_as_many_pairs_as_lie_there() -> None:
    places = np.stack(np.meshgrid(np.arange(5), np.arange(4), indexing="ij"), -1).reshape(-1, 2)
    apart = np.abs(places[:, None] - places[None]).reshape(-1, 2)
    counts = np.zeros((5, 4))
    np.add.at(counts, tuple(apart.T), 1)
    assert lag_weights((5, 4), (3, 4)) == pytest.approx(counts[:3] / 20**2)


@pytest.mark.parametrize("dim", [0, 1, 2])
def test_pairs_along_one_dimension(dim: int) -> None:
    shape = (40, 30, 50)
    torch.manual_seed(0)
    x = inputs(shape).double()
    n, sums = shape[dim], x.sum(dim)
    seen = float((sums.square() - x.square().sum(dim)).mean()) / (n * (n - 1))
    said = float(pair_along(INPUTS.signal("x", shape, shape[0]), dim))
    assert said == pytest.approx({0: OTHER, 1: FAR, 2: 0.0}[dim] + MEAN**2)
    assert said == pytest.approx(seen, abs=0.15)


def test_weights_take_back_what_a_norm_has_divided_by() -> None:
    weights = Taps((0.2, 0.6, 2.2), (0.1, 0.2, 0.7), 4)
    for alike, counted in ((0.7, 0.7), (-0.3, 0.0)):  # what is less than nothing in common is nothing to a filter
        g = Gradient(scalar(1.0, 2), scalar(alike, 2), tied=2.0)
        assert float(returned(g, weights).second) == pytest.approx(0.5 * weights.returned(counted))
    assert weights.returned(0.7) < 0.95 * weights.returned(0.0)


PLACES: dict[str, Callable[[Tensor], Tensor]] = {
    "chunk": lambda x: x.chunk(3, 1)[1],
    "split": lambda x: x.split([5, 3, 4], 1)[2],
    "unbind": lambda x: x.unbind(1)[2],
    "slice": lambda x: x[:, 2:5],
    "select": lambda x: x[:, 3],
    "joined": lambda x: torch.cat([x[:, 3:5], 2 * x[:, 8:]], 1),
    "pad": lambda x: nn.functional.pad(x, (0, 0, 2, 3))[:, :6],
    "flip": lambda x: x.flip(1)[:, :2],
    "transpose": lambda x: x.transpose(1, 2)[:, :, 7:],
    "stack": lambda x: torch.stack([x, 3 * x], 1)[:, 1, :4],
    "repeat": lambda x: x[:, :4].repeat(1, 3, 1)[:, :6],
}


@pytest.mark.parametrize("name", PLACES)
def test_a_gradient_comes_to_the_places_that_were_read(name: str) -> None:
    x = torch.randn(2, 12, 8, requires_grad=True)
    y = PLACES[name](x)
    drawn = [torch.autograd.grad(y, x, torch.randn_like(y), retain_graph=True)[0].square() for _ in range(100)]
    seen = torch.stack(drawn).mean((0, 1, 3))
    model = Written(PLACES[name])
    graph = trace(model, torch.zeros(2, 12, 8))
    _, _, gradients = walk(graph, {})
    back = gradients[next(node.name for node in graph.nodes if node.kind == "input")].second
    assert back.expand(2, 12, 8).mean((0, 2)).tolist() == pytest.approx(seen.tolist(), abs=0.02, rel=0.15)


@pytest.mark.parametrize("settings", [(3, 2, 1), (3, 2, 1, 2), (2, 2, 0, 1, True), (3, 3, 1, 1, True), ((3, 2), 2)])
def test_maxima_with_their_places_are_as_many_as_there_are(settings: tuple[int, ...]) -> None:
    def pooled(x: Tensor) -> tuple[Tensor, Tensor]:
        return nn.functional.max_pool2d(x, *settings, return_indices=True)

    found = signals(Written(lambda x: pooled(x)[0]), torch.zeros(2, 3, 12, 9))
    shapes = {signal.shape for name, signal in found.items() if "max_pool2d" in name}
    assert shapes == {tuple(pooled(torch.zeros(2, 3, 12, 9))[0].shape)}


def test_a_function_passes_what_two_places_of_a_weighted_gradient_share() -> None:
    rng = np.random.default_rng(0)
    profile = rng.permutation(np.repeat([0.2, 0.6, 1.2, 3.0], 300)).reshape(3, 400)
    weight = rng.choice([0.1, 1.0, 6.0], (3, 400))
    profile, weight = profile / profile.mean(), weight * profile / (weight * profile).mean()
    shape = (3, 8, 20, 20)
    x = Signal(
        "x", shape, label(shape, "bcss"), *(scalar(v, 4) for v in (0.0, 1.0)),
        torch.zeros(3, 1, 1, 1, dtype=torch.float64), scalar(0.0, 4),
        profile=torch.from_numpy(profile).view(3, 1, 20, 20),
    )  # fmt: skip
    z = rng.standard_normal(4000)
    slopes = (1 / np.cosh(np.sqrt(profile)[..., None] * z) ** 2).mean(-1)
    roots = np.sqrt(weight)
    seen = ((roots * slopes).sum(1) / roots.sum(1)) ** 2
    found = mixed(x, aten("tanh", {}), torch.from_numpy(weight).view(3, 1, 20, 20))
    assert found.slope_far.ravel() == pytest.approx(seen, rel=0.06)


# Over draws


def logs(build: Callable[[], nn.Module], shape: tuple[int, ...], draws: int = 400) -> tuple[np.ndarray, np.ndarray]:
    """Logarithms of the second moments of the result and of the gradient by the input, over draws."""
    found = []
    for seed in range(draws):
        torch.manual_seed(seed)
        x = torch.randn(shape, requires_grad=True)
        y = build()(x)
        r = torch.randn_like(y)
        (back,) = torch.autograd.grad((y * r).sum(), x)
        found.append([float(y.detach().square().mean()), float(back.square().mean() / r.square().mean())])
    return tuple(np.log(np.array(found)).T)


def layers(*widths: int) -> Callable[[], nn.Module]:
    return lambda: normal(nn.Sequential(*(nn.Linear(a, b, bias=False) for a, b in pairwise(widths))))


NARROW = {
    "one": (layers(200, 8), (40, 200)),
    "few inputs": (layers(6, 12), (40, 6)),
    "last a function": (lambda: nn.Sequential(layers(100, 8)(), nn.ReLU()), (40, 100)),
    "joined": (lambda: Two(lambda a, b: torch.cat([a, b], 1), 4, 12), (40, 100)),
    "few samples": (layers(100, 8, 8), (3, 100)),
}


class Two(nn.Module):
    """Two layers of different sizes, of one half of the input each."""

    def __init__(self, join: Callable[[Tensor, Tensor], Tensor], *widths: int, half: int = 50) -> None:
        super().__init__()
        self.one, self.two = (nn.Linear(half, n, bias=False) for n in widths)
        self.join = join
        normal(self.one), normal(self.two, 0.5)

    def forward(self, x: Tensor) -> Tensor:
        return self.join(*(layer(z) for layer, z in zip((self.one, self.two), x.chunk(2, -1), strict=True)))


@pytest.mark.parametrize("name", NARROW)
def test_second_moments_vary_over_draws_as_much_as_is_said(name: str) -> None:
    build, shape = NARROW[name]
    forward, backward = logs(build, shape)
    torch.manual_seed(0)
    model = build()
    graph = trace(model, torch.zeros(shape))
    drawn = {n: (0.0, (0.5 if n.startswith("two") else 1.0) / p.shape[1]) for n, p in model.named_parameters()}
    context, _, gradients = walk(graph, drawn)
    back = gradients[next(node.name for node in graph.nodes if node.kind == "input")]
    for what, said, seen in (
        ("forward", context.signals[graph.outputs[0]].spread, forward.var()),
        # Few of a white gradient pass a function, and their squares vary on their own.
        *([("backward", back.spread, backward.var())] if "function" not in name else []),
    ):
        # 400 draws know a variance to 7 %; of squares of few numbers the logarithm varies more than to first order.
        assert said == pytest.approx(seen, rel=0.25 if what == "forward" else 0.4), what


# What a layer leaves of directions, and how many weights its channels depend on


def rank(y: Tensor) -> float:
    """``(tr S)²/tr S²`` of the covariance of rows."""
    s = torch.cov(y.double().T)
    return float(s.trace() ** 2 / s.square().sum())


RANKS: dict[str, Callable[[], nn.Module]] = {
    "layer": lambda: nn.Linear(16, 64, bias=False),
    "function": lambda: nn.Sequential(nn.Linear(16, 64, bias=False), nn.ReLU()),
    "behind a function": lambda: nn.Sequential(nn.Linear(16, 64, bias=False), nn.Tanh(), nn.Linear(64, 64, bias=False)),
    "sum": lambda: Two(lambda a, b: a + b, 64, 64, half=8),
}


@pytest.mark.parametrize("name", RANKS)
def test_results_lie_along_as_many_directions_as_is_said(name: str) -> None:
    torch.manual_seed(0)
    x, models = torch.randn(8000, 16), [normal(RANKS[name]()) if name != "sum" else RANKS[name]() for _ in range(6)]
    with torch.no_grad():
        seen = float(np.mean([rank(model(x)) for model in models]))
    assert last(models[0], x[:4]).directions() == pytest.approx(seen, rel=0.1)


def test_a_channel_depends_on_as_many_weights_as_its_size_says() -> None:
    torch.manual_seed(0)
    uniform = nn.Conv2d(8, 16, 1, bias=False)  # drawn from a uniform distribution: of kurtosis 9/5
    uniform.weight.data.uniform_(-1, 1)
    kurtosis = as_they_are(uniform)["weight"][2]
    assert last(uniform, torch.zeros(2, 8, 4, 4)).fan == pytest.approx(8 * 2 / (kurtosis - 1))
    colours = normal(nn.Conv2d(3, 512, 1, bias=False))
    told = InputMoments(across=0.9)
    covariance = 0.1 * np.eye(3) + 0.9
    sizes = ((w := np.random.default_rng(0).standard_normal((400_000, 3))) @ covariance * w).sum(1)
    fan = last(colours, torch.zeros(2, 3, 4, 4), told).fan
    free = 2 / (as_they_are(colours)["weight"][2] - 1)
    assert fan / free == pytest.approx(2 * sizes.mean() ** 2 / sizes.var(), rel=0.05)
    outside = normal(nn.Conv2d(4, 64, 5, padding=2, bias=False))  # of two places a kernel of five reads both
    free = 2 / (as_they_are(outside)["weight"][2] - 1)
    assert last(outside, torch.zeros(2, 4, 2, 2)).fan == pytest.approx(4 * 4 * free)


def test_a_norm_leaves_the_skew_and_its_sign_is_that_of_the_scale() -> None:
    for scale in (1.0, -2.0):
        model = nn.Sequential(nn.ReLU(), nn.BatchNorm1d(64))
        nn.init.constant_(model[1].weight, scale)
        assert last(model, torch.zeros(256, 64)).skew == pytest.approx(math.copysign(1.637, scale), abs=0.01)


@pytest.mark.parametrize("depth", [1, 2])
def test_sites_are_as_close_as_they_are_once_channels_are_equally_large(depth: int) -> None:
    noise = torch.randn(6, 64, 28, 28, generator=torch.Generator().manual_seed(0))
    batch = nn.functional.avg_pool2d(noise, 5, 1) * 5

    def build() -> nn.Module:
        block = [nn.Conv2d(256, 256, 3, padding=1, groups=256, bias=False), nn.BatchNorm2d(256)]
        return normal(nn.Sequential(nn.Conv2d(64, 256, 1, bias=False), *block, *(block if depth == 2 else ())))

    torch.manual_seed(0)
    model = build()
    said = last(model, batch, InputMoments.of(batch)).near
    with torch.no_grad():
        y = model(batch).double()
    own, lags = y.square().mean(), (1, 2, 3)
    apart = float((y[..., :12, :] * y[..., 12:, :]).mean() / own)
    seen = [(float((y[..., lag:, :] * y[..., :-lag, :]).mean() / own) - apart) / (1 - apart) for lag in lags]
    assert said is not None
    assert [said[lag, 0] for lag in lags] == pytest.approx(seen, abs=0.05)
