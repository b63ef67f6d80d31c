"""Maps that keep one of several equal slices say and make the same as full ones, and take no memory."""

import numpy as np
import pytest
import torch

from firstlight.theory.axes import label
from firstlight.theory.elementwise import aten
from firstlight.theory.filters import Covariance, Filters, drawn
from firstlight.theory.maps.windows import Window
from firstlight.theory.mixture import mixed
from firstlight.theory.runs import Runs, classes, full, joined, runs
from firstlight.theory.signal import Signal, compress

INDEX = torch.tensor([0] * 30 + [1] * 50 + [0] * 40 + [2] * 80)
OTHER = torch.tensor([0] * 70 + [1] * 130)


def packed(index=INDEX, seed=0):
    values = torch.rand(4, int(index.max()) + 1, 8, 8, generator=torch.Generator().manual_seed(seed))
    made = runs(values.double(), index, 1)
    assert isinstance(made, Runs)
    return made, values.double()[:, index]


@pytest.mark.parametrize(
    "act",
    [
        lambda x, y: x * 2 + y**2,
        lambda x, y: torch.maximum(x, y).sqrt(),
        lambda x, y: (x - y).clamp_min(0) / x.mean(1, keepdim=True),
        lambda x, y: x.mean((0, 2, 3), keepdim=True) * x + y,
        lambda x, y: torch.zeros_like(x) + y.mean(),
    ],
)
def test_what_acts_on_elements_acts_on_slices(act):
    (x, wide_x), (y, wide_y) = packed(), packed(OTHER, 1)
    found = act(x, y)
    assert isinstance(found, Runs)
    torch.testing.assert_close(full(found), act(wide_x, wide_y))


@pytest.mark.parametrize(
    "measure",
    [
        lambda x: x.mean(),
        lambda x: x.sum(),
        lambda x: x.mean((1, 2)),
        lambda x: x.mean((0, 1, 3), keepdim=True),
        lambda x: x.sum(1),
        lambda x: x.max(),
        lambda x: x.median(),
        lambda x: x.narrow(1, 20, 70) + 0,
        lambda x: x.narrow(2, 1, 3) + 0,
        lambda x: x.reshape(4, -1),
        lambda x: torch.nn.functional.pad(x, (1, 2, 0, 1)) + 0,
        lambda x: x * torch.arange(200.0, dtype=torch.float64).view(1, -1, 1, 1),
    ],
)
def test_other_operations_see_the_full_map(measure):
    x, wide = packed()
    torch.testing.assert_close(full(measure(x)), measure(wide))


def test_a_window_slides_over_each_slice():
    x, wide = packed()
    window = Window((8, 8), (8, 8), (3, 3), (1, 1), (1, 1), (1, 1))
    for act in (window.sum, window.pair_sum):
        assert isinstance(act(x), Runs)
        torch.testing.assert_close(full(act(x)), act(wide))


def test_parts_are_joined_without_being_written_out():
    x, wide = packed()
    plain = torch.rand(1, 1, 8, 8, dtype=torch.float64)
    found = joined([x, plain, x], [200, 60, 200], 1)
    assert isinstance(found, Runs)
    assert found.slices.shape[1] == 7
    torch.testing.assert_close(full(found), torch.cat([wide, plain.expand(4, 60, 8, 8), wide], 1))
    assert full(compress(x - x)).shape == (1, 1, 1, 1)


def test_a_change_in_place_is_refused():
    x, _ = packed()
    with pytest.raises(NotImplementedError, match="in place"):
        x.add_(1)


def test_where_several_maps_change():
    (x, _), (y, wide) = packed(), packed(OTHER, 1)
    first, kind = classes([x, y], 1)
    assert kind.max() == 4
    torch.testing.assert_close(wide.index_select(1, first)[:, kind], wide)
    assert classes([x, wide], 1) is None


def test_a_function_of_a_map_in_runs_is_that_of_the_full_one():
    x, wide = packed()
    axes = label((4, 200, 8, 8), "bcss")

    def signal(second):
        mean = 0.1 * second
        return Signal("x", (4, 200, 8, 8), axes, mean, second, 0.5 * second, 0.2 * second)

    few, whole = (mixed(signal(m), aten("silu", {})) for m in (x, wide))
    for name in ("mean", "second", "far", "other", "chi", "slope_far"):
        found = few.map(getattr(few, name))
        assert isinstance(found, Runs)
        torch.testing.assert_close(full(found), full(whole.map(getattr(whole, name))), rtol=1e-9, atol=0)
    assert few.mean_of(few.fourth) == pytest.approx(whole.mean_of(whole.fourth), rel=1e-9)


def test_the_mean_over_an_image_of_what_filters_make_varies_as_it_does_site_by_site():
    """``Var(mean over sites) = Σ f f' Σ_{p, q inside} K(p + t - q - t')/n²`` written out, with zeros around."""
    sites, near = (5, 4), np.array([[1.0, 0.5, 0.2], [0.4, 0.3, 0.1]])
    covariance = Covariance(1.3, 0.4, 0.1, near, sites)
    filters = Filters("x", drawn("w", (3, 5), (1, 1), 0.1, 1.0), 1)
    places = np.stack(np.meshgrid(*map(np.arange, sites), indexing="ij"), -1).reshape(-1, 2)
    read = np.zeros((len(filters.flat), len(places)))  # what each site of the input counts for in the mean
    for t, step in enumerate(filters.steps):
        for k, site in enumerate(places):
            inside = ((site - step >= 0) & (site - step < np.array(sites))).all()
            read[:, k] += filters.flat[:, t] * inside / len(places)
    kernel = covariance.at(places[:, None] - places) - covariance.other
    np.testing.assert_allclose(covariance.pooled(filters), (read @ kernel * read).sum(1), rtol=1e-9)
