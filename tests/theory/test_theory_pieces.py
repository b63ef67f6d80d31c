"""What functions, sums and repetitions do to what is known of a gradient beside its size; against draws."""

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from wide_networks import Written, normal

from firstlight.graph import trace
from firstlight.theory import InputMoments, as_they_are, walk
from firstlight.theory.axes import label
from firstlight.theory.elementwise import Elementwise, aten
from firstlight.theory.maps import Context
from firstlight.theory.maps.broadcast import aligned, reduced
from firstlight.theory.maps.pointwise import of_function, through
from firstlight.theory.signal import Gradient, Signal, scalar

SHAPE = (8, 64)
RELU, TANH = aten("relu", {}), aten("tanh", {})


def normals(shape: tuple[int, ...] = SHAPE, far: float = 0.0, other: float = 0.0) -> Signal:
    kinds = {2: "bc", 4: "bcss"}[len(shape)]
    return Signal("x", shape, label(shape, kinds), *(scalar(v, len(shape)) for v in (0.0, 1.0, far, other)))


def passed(f: Elementwise, **known: object) -> Gradient:
    graph = trace(nn.Identity(), torch.zeros(*SHAPE))
    g = Gradient(scalar(2.0, 2), scalar(0.5, 2), **known)  # type: ignore[arg-type]
    return through(normals(), f, g, Context(graph, SHAPE[0], training=True))


def test_what_goes_with_the_square_of_a_function_meets_its_slope_there() -> None:
    z = np.random.default_rng(0).standard_normal(1_000_000)
    f, slope = np.tanh(z), 1 / np.cosh(z) ** 2
    square = 1.5 + 0.5 * f**2 / (f**2).mean()  # a quarter of E g² is an echo of f
    found = passed(TANH, echo=scalar(0.5, 2))
    assert float(found.second) == pytest.approx((square * slope**2).mean(), rel=0.01)
    assert float(passed(TANH).second) > 1.1 * float(found.second)


def test_one_size_for_all_sites_of_a_sample_is_shared_by_what_a_function_makes() -> None:
    shape, swing = (4, 8, 5, 6), 0.1
    rng = np.random.default_rng(0)
    sizes = np.exp(swing**0.5 * rng.standard_normal(400_000))
    z = rng.standard_normal((2, len(sizes))) * sizes / np.sqrt((sizes**2).mean())
    one, two = np.maximum(z, 0)
    graph = trace(nn.ReLU(), torch.zeros(shape))
    context = Context(graph, shape[0], training=True)
    found = of_function(graph.operations[0], context, replace(normals(shape), swing=swing), RELU)
    assert float(found.second) == pytest.approx((one**2).mean(), rel=0.01)
    assert float(found.far - found.other) == pytest.approx((one * two).mean() - one.mean() ** 2, rel=0.1)


def test_samples_have_in_common_what_mean_slopes_leave() -> None:
    assert passed(RELU, other=-0.2).other == pytest.approx(-0.2 / 4)


def test_a_gradient_that_leans_does_so_at_both_of_two_places() -> None:
    plain, leaning = passed(RELU), passed(RELU, lean=0.4)
    second, far = (float(getattr(leaning, m) / getattr(plain, m)) for m in ("second", "far"))
    assert second > 1.1
    assert far == pytest.approx(second**2)


def test_rows_that_sum_to_zero_do_so_after_a_factor_alone() -> None:
    assert passed(Elementwise("*3", lambda z: 3 * z), rows=-0.2).rows == -0.2
    assert passed(RELU, rows=-0.2).rows is None


def test_a_factor_leaves_what_is_known_of_a_result() -> None:
    def build(factor: float) -> dict[str, Signal]:
        model = Written(lambda x: (factor * ((x + 1) @ (x + 1).transpose(1, 2))) * 1.0)
        return walk(trace(model, torch.zeros(2, 5, 16)), {})[0].signals

    one, three = (list(build(c).values())[-1].rows for c in (1.0, 3.0))
    assert float(three / one) == pytest.approx(9.0)
    softmax = walk(trace(Written(lambda x: torch.softmax(x, -1) * 1.0), torch.zeros(2, 5)), {})[0].signals
    assert list(softmax.values())[-1].simplex == -1
    doubled = walk(trace(Written(lambda x: torch.softmax(x, -1) * 2.0), torch.zeros(2, 5)), {})[0].signals
    assert list(doubled.values())[-1].simplex == 0
    layer = nn.Sequential(normal(nn.Linear(16, 8, bias=False)), Written(lambda x: 0.5 * x))
    before, after = list(walk(trace(layer, torch.zeros(2, 16)), as_they_are(layer))[0].signals.values())[-2:]
    assert after.fan == before.fan < 100


def test_a_signal_repeated_over_sites_or_samples_agrees_there() -> None:
    full, axes = (4, 8, 5, 6), label((4, 8, 5, 6), "bcss")
    gate = aligned(normals((4, 8, 1, 1), far=0.6, other=0.3), full, axes)
    assert [float(m) for m in gate.maps()[1:]] == [1.0, 1.0, 0.3]
    table = aligned(normals((1, 8, 5, 6), far=0.6, other=0.3), full, axes)
    assert [float(m) for m in table.maps()[1:]] == [1.0, 0.6, 0.6]
    scale = aligned(normals((1, 8, 1, 1), far=0.6, other=0.3), full, axes)
    assert [float(m) for m in scale.maps()[1:]] == [1.0, 1.0, 1.0]


@pytest.mark.parametrize("small", [(4, 8, 5, 1), (1, 8, 5, 6), (4, 1, 5, 6), (4, 8, 1, 1)])
def test_the_gradient_by_what_was_repeated_is_summed_over_its_copies(small: tuple[int, ...]) -> None:
    full, far = (4, 8, 5, 6), 0.4
    rng = torch.Generator().manual_seed(0)
    g = far**0.5 * torch.randn(2000, 4, 8, 1, 1, generator=rng) + (1 - far) ** 0.5 * torch.randn(
        2000, *full, generator=rng
    )
    summed = g.sum([d + 1 for d in range(4) if small[d] == 1], keepdim=True).flatten(3)
    n = summed.shape[-1]
    found = reduced(Gradient(scalar(1.0, 4), scalar(far, 4)), normals(small), full, label(full, "bcss"))
    assert float(found.second) == pytest.approx(float(summed.square().mean()), rel=0.05)
    if n > 1:
        pairs = float((summed.sum(-1).square() - summed.square().sum(-1)).mean()) / (n * (n - 1))
        assert float(found.far) == pytest.approx(pairs, rel=0.05)


def test_a_gradient_keeps_its_places_where_it_is_summed_over_others() -> None:
    profile = torch.rand(4, 1, 5, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    g = Gradient(scalar(1.0, 4), scalar(0.4, 4), profile=profile)
    found = reduced(g, normals((4, 8, 5, 1)), (4, 8, 5, 6), label((4, 8, 5, 6), "bcss")).profile
    assert found is not None
    assert torch.allclose(found, profile.mean(3, keepdim=True))


def test_a_difference_of_means_with_a_factor() -> None:
    class Difference(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = (nn.Linear(64, 64, bias=False) for _ in range(2))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.sub(self.one(x).relu(), self.two(x).relu(), alpha=3)

    model = Difference()
    drawn = {name: (0.0, 1 / 64) for name, _ in model.named_parameters()}
    found = list(walk(trace(model, torch.zeros(2, 64)), drawn)[0].signals.values())[-1]
    assert float(found.mean) == pytest.approx(-2 / math.sqrt(2 * math.pi))
    assert float(found.second) == pytest.approx(0.5 + 9 * 0.5 - 6 / (2 * math.pi))


class Three(nn.Module):
    """Two sums that share a layer, and what is made of them."""

    def __init__(self, join: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.layers, self.join = nn.ModuleList(nn.Linear(64, 64) for _ in range(3)), join

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        one, two, both = (layer(x) for layer in self.layers)
        return self.join(one + both, two + both)


def test_products_of_signals_that_share_a_source() -> None:
    model = Three(lambda a, b: a * b)
    drawn = {n: (0.0, 1 / 64) if n.endswith("weight") else (0.5, 0.25) for n, _ in model.named_parameters()}
    found = list(walk(trace(model, torch.zeros(2, 64)), drawn)[0].signals.values())[-1]
    rng = np.random.default_rng(0).standard_normal((3, 2_000_000)) + 0.5
    product = (rng[0] + rng[2]) * (rng[1] + rng[2])
    assert float(found.mean) == pytest.approx(product.mean(), rel=0.01)
    assert float(found.second) == pytest.approx((product**2).mean(), rel=0.02)


@pytest.mark.parametrize("alpha", [1.0, -2.0])
def test_third_cumulants_add_up_and_gradients_lean_by_what_an_operand_has_of_a_sum(alpha: float) -> None:
    class Sum(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.add(x[:, :64].relu(), x[:, 64:].relu(), alpha=alpha)

    graph = trace(Sum(), torch.zeros(2, 128))
    context, steps, _ = walk(graph, {})
    one, two = np.maximum(np.random.default_rng(0).standard_normal((2, 2_000_000)), 0)
    whole = one + alpha * two
    whole = (whole - whole.mean()) / whole.std()
    assert context.signals[graph.outputs[0]].skew == pytest.approx((whole**3).mean(), rel=0.02)
    flows = steps[graph.outputs[0]].pull(Gradient(scalar(1.0, 2), scalar(0.0, 2), lean=0.3))
    seen = [0.3 * (whole * (z - z.mean())).mean() / z.std() for z in (one, two)]  # E (g²|y) is linear in y
    assert [g.lean for _, g, _ in flows] == pytest.approx(seen, rel=0.02)


def test_a_gate_makes_samples_differ_and_what_it_multiplies_keeps_what_is_known() -> None:
    shape = (4, 8, 5, 6)
    model = Written(lambda x: x * torch.sigmoid(4 * x.mean((2, 3), keepdim=True)))
    context, steps, _ = walk(trace(model, torch.zeros(shape)), {}, InputMoments(far=0.5))
    name = list(steps)[-1]
    gate = 1 / (1 + np.exp(-4 * np.random.default_rng(0).standard_normal(1_000_000) * (1 / 30 + 29 / 30 * 0.5) ** 0.5))
    assert context.signals[name].swing == pytest.approx(gate.var() / (gate**2).mean(), rel=0.02)
    g = Gradient(scalar(1.0, 4), scalar(0.2, 4), along=scalar(0.3, 4), lean=0.4, spread=0.1)
    (_, signal, _), (_, collected, _) = steps[name].pull(g)
    second = (gate**2).mean()
    assert float(signal.second) == pytest.approx(second, rel=0.05)
    assert signal.lean == 0.4
    # Σ g x over 30 sites: own squares, and for two sites E g g' E x x' with what g has of x on top.
    assert float(collected.second) == pytest.approx(30 * (1 + 29 * (0.2 * 0.5 + 0.3)), rel=0.02)
