"""What the theory knows of one tensor: moments over the draw of the weights and of the data.

A network with fresh random weights sends its input through Gaussian fields (Lee et al., "Deep Neural Networks as
Gaussian Processes", 2018; Novak et al. for convolutions, 2019). Such a field is known by its mean and by its second
moments between two elements of one channel. Three of these are kept: the element with itself (`second`), with another
site of the same sample (`far`), and with another sample (`other`). Each is a map that broadcasts against the tensor, so
that zero padding shows as a field over sites and a concatenation as segments of channels.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import torch
from torch import Tensor

from firstlight._typing import Floats
from firstlight.theory.axes import Axes, lag_weights, size
from firstlight.theory.elementwise import Elementwise

if TYPE_CHECKING:
    from firstlight.theory.anchors import Anchors
    from firstlight.theory.filters import Filters, Response
    from firstlight.theory.law import Law
    from firstlight.theory.taps import Taps

Near: TypeAlias = Floats
"""Closeness ``r`` of sites at a lag, an axis per spatial dimension, ``r[0, 0] = 1``: ``K(lag) = far + r (q - far)``."""

Leaf: TypeAlias = Floats
"""Variance of an independent source, its covariance between sites, and between samples; shape [3]."""

Coefficient: TypeAlias = float | Floats
"""Of a source in a signal; one for each number of a `Leaf` where they differ, as an average keeps what sites share."""


@dataclass(frozen=True, slots=True)
class Signal:
    """Moments of one tensor; maps are float64 with the tensor's rank, each dimension full or 1.

    Attributes:
        name: of the node.
        shape: of the tensor.
        axes: what its dimensions mean.
        mean: E z.
        second: E z².
        far: E z z' between two sites of one sample, same channel, on average over pairs.
        other: E z z' between two samples, same channel, on average over pairs of sites.
        near: how far closeness of sites raises K above `far`; ``None`` when it does not.
        profile: how much larger or smaller the second moment is at each sample and site of the data, [N, 1, *sites],
            mean one; ``None`` when it is even.
        base: the Gaussian signal that this one is a function of; ``None`` when it is itself taken as Gaussian.
        function: that function.
        steps: the signals that the last operation of that function was applied to, each with the slope by it.
        terms: coefficients of the independent sources it is a linear combination of, by source.
        skew: third cumulant of one channel's elements over their variance to 3/2; of a function of `base`, its own.
        law: how its elements are distributed about the mean, where that is known and not Gaussian; of a function of
            `base` that of the base says it.
        spread: variance of log(second moment) over weight draws, carried along so far.
        fresh: what part of `spread` is this result's own channels being few; a function of them counts that anew.
        swing: variance of log(size) of one channel over samples, shared by all sites of a sample (a gate's doing).
        rows: K between elements along the last dimension, for the logits of attention; ``None`` when unknown.
        simplex: the dimension, counted from the end, along which elements are positive and sum to one; 0 for none.
        balanced: of a weight whose mean over what each output sums is zero exactly, as a standardized one's is.
        across: E z z' between two channels of one element; ``None`` where that is (E z)², as after random weights.
        taps: the weights that the size of one channel depends on, kept while elements are arranged; ``None`` when many.
        rank: ``(tr S)²/tr S²`` of the covariance ``S`` between channels of one site: along how many directions it lies.
        read: the same of what the weights before it have read.
        kurtosis: E (w - E w)⁴ over the squared variance, of the elements of a parameter; 3 for a normal distribution.
        anchors: the kernel between chosen places of real data; ``None`` when the data are not known, or not followed.
        filters: what each channel is of one channel of an earlier signal; ``None`` when it is none's own.
    """

    name: str
    shape: tuple[int, ...]
    axes: Axes
    mean: Tensor
    second: Tensor
    far: Tensor
    other: Tensor
    near: Near | None = None
    profile: Tensor | None = None
    base: "Signal | None" = None
    function: Elementwise | None = None
    steps: "tuple[tuple[Signal, Elementwise], ...]" = ()
    terms: "Mapping[str, Coefficient]" = field(default_factory=dict)
    skew: float = 0.0
    law: "Law | None" = None
    spread: float = 0.0
    fresh: float = 0.0
    swing: float = 0.0
    rows: Tensor | None = None
    simplex: int = 0
    balanced: bool = False
    across: Tensor | None = None
    taps: "Taps | None" = None
    rank: float = math.inf
    read: float = math.inf
    kurtosis: float = 3.0
    anchors: "Anchors | None" = None
    filters: "Filters | None" = None

    @property
    def variance(self) -> Tensor:
        """E z² - (E z)², not below zero."""
        return (self.second - self.mean**2).clamp_min(0)

    @property
    def fan(self) -> float:
        """Independent normal weights that the size of one channel depends on."""
        return math.inf if self.taps is None else self.taps.fan

    @property
    def root(self) -> "Signal":
        """The Gaussian signal behind it: its base, or itself."""
        return self.base if self.base is not None else self

    @property
    def apart(self) -> Tensor:
        """E z z' between two different sites of one sample, averaged over all pairs: `far`, raised by those close."""
        weights = self.lag_weights()
        if self.near is None or weights is None:
            return self.far
        same = float(weights.ravel()[0])  # pairs of a site with itself, which are no part of the average
        close = (float((weights * self.near).sum()) - same) / (1 - same) if same < 1 else 0.0
        return self.far + max(close, 0.0) * (self.second - self.far).clamp_min(0)

    def level(self, samples: int) -> float:
        """E of the squared mean of one channel over all its sites of so many samples, as a norm subtracts it."""
        _, second, _, other = self.scalars()
        n = max(self.sites(), 1)
        within = second / n + (1 - 1 / n) * float(self.apart.mean())
        return within / samples + (1 - 1 / samples) * other

    def lag_weights(self) -> Floats | None:
        """The share of all pairs of sites, each with itself too, that lie at each lag of `near`; ``None`` without."""
        if self.near is None:
            return None
        sizes = [n for axis, n in zip(self.axes, self.shape, strict=True) if axis and axis[0][0] == "s"]
        sizes = sizes[-self.near.ndim :]
        return lag_weights(sizes, self.near.shape) if len(sizes) == self.near.ndim else None

    def maps(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Mean, second, far and other."""
        return self.mean, self.second, self.far, self.other

    def channel_pairs(self) -> Tensor:
        """`across`, or what stands for it."""
        return self.mean**2 if self.across is None else self.across

    def sites(self) -> int:
        """Number of sites of one sample."""
        return size(self.axes, "s")

    def directions(self) -> float:
        """`rank`, as far as there are channels."""
        return min(self.rank, float(max(self.channels(), 1)))

    def channels(self) -> int:
        """Number of channels."""
        return size(self.axes, "c")

    def gaussian(self) -> "Signal":
        """The same moments, from now on taken as those of a Gaussian field."""
        return replace(self, base=None, function=None, steps=())

    def scalars(self) -> tuple[float, float, float, float]:
        """The maps averaged over the tensor."""
        return tuple(float(m.mean()) for m in self.maps())  # type: ignore[return-value]

    def covariances(self) -> Leaf:
        """Variance, covariance between sites and between samples, averaged: what a source of its own would have.

        The covariances may be negative: after a norm that subtracts the mean over sites, they are.
        """
        _, second, far, other = self.scalars()
        square = float((self.mean**2).mean())
        return np.array([max(second - square, 0.0), far - square, other - square])


@dataclass(frozen=True, slots=True)
class Gradient:
    """Second moments of the loss's gradient by a tensor, up to one constant for the whole network.

    Attributes:
        second: E g².
        far: E g g' between two sites of one sample, same channel.
        spread: variance of log(second) over weight draws, carried along from the output.
        doubt: by how much log(second) may be off because corrections on the way are estimates; layers that are alike
            err alike, so it adds up.
        along: E (g ẑ)(g' ẑ') between two sites, ẑ the standardized signal itself; ``None`` where gradient and signal
            are independent. A slope ``f'(z)`` is not: ``E f'(z) ẑ`` is what batch norm removes beyond the mean.
        tied: how much of `second` is owed to the size of the weights just before, by whose norm a normalization has
            divided: ``E 1/|w|²`` over ``1/E |w|²``. The weights, of that same norm, take it away again.
        echo: what part of `second` is proportional to the square of the signal itself.
        lean: ``E g² ẑ`` over `second`, ẑ the standardized signal itself: after ``relu(x + y)`` a gradient is only there
            where the sum is positive, so where ``x`` is large.
        rows: E g g' of two elements that differ along the last dimension only, over E g²; ``None`` when unknown.
        response: the filters through which it came from a norm of uneven channels; ``None`` when there are none.
        other: E g g' between two samples, same channel. Samples have gradients of their own, but batch norm takes the
            mean over all away, and leaves what is less than nothing in common; layers that are linear keep that.
        profile: how much larger or smaller `second` is at each sample and site, as in `Signal`; ``None`` when even.
    """

    second: Tensor
    far: Tensor
    spread: float = 0.0
    doubt: float = 0.0
    along: Tensor | None = None
    tied: float = 1.0
    echo: Tensor | None = None
    lean: float = 0.0
    other: float = 0.0
    rows: float | None = None
    response: "Response | None" = None
    profile: Tensor | None = None

    def __add__(self, other: "Gradient") -> "Gradient":
        """Contributions of independent paths."""
        a, b = float(self.second.mean()), float(other.second.mean())
        share = a / (a + b) if a + b > 0 else 0.5
        common = min(self.spread, other.spread)  # paths that meet come from one gradient, and begin with its spread
        spread = common + share**2 * (self.spread - common) + (1 - share) ** 2 * (other.spread - common)
        doubt = share * self.doubt + (1 - share) * other.doubt
        found = [g.along for g in (self, other) if g.along is not None]
        along = None if not found else found[0] if len(found) == 1 else found[0] + found[1]
        tied = 1 / (share / self.tied + (1 - share) / other.tied)
        echoes = [g.echo for g in (self, other) if g.echo is not None]
        echo = None if not echoes else echoes[0] if len(echoes) == 1 else echoes[0] + echoes[1]
        apart = self.other + other.other
        lean = share * self.lean + (1 - share) * other.lean
        second, far = self.second + other.second, self.far + other.far
        one, two = self.response, other.response
        both = one if two is None else two if one is None else max(one, two, key=lambda r: r.second)
        if one is not None and two is not None and one.filters.base == two.filters.base:
            both = one.plus(two)
            changed = max(1 + (both.second - one.second - two.second) / max(a + b, 1e-300), 0.0)
            second, far, apart = second * changed, far + (both.far - one.far - two.far), apart * changed
        profile = None
        if self.profile is not None or other.profile is not None:
            mine, theirs = (torch.ones(()) if g.profile is None else g.profile for g in (self, other))
            profile = share * mine + (1 - share) * theirs
        return Gradient(second, far, spread, doubt, along, tied, echo, lean, apart, response=both, profile=profile)

    def moved(self, second: Tensor, far: Tensor) -> "Gradient":
        """The same gradient with other maps: by another tensor, whose overlap with the signal is not known."""
        grown = float(second.mean()) / max(float(self.second.mean()), 1e-300)
        return replace(
            self, second=second, far=far, along=None, echo=None, lean=0.0, rows=None, response=None,
            other=self.other * grown,
        )  # fmt: skip

    def scaled(self, factor: "float | Tensor", spread: float = 0.0) -> "Gradient":
        """Multiplied, in the second moment, by `factor`, whose logarithm varies by `spread`."""
        found = self.moved(self.second * factor, self.far * factor)
        return replace(found, spread=self.spread + spread, rows=self.rows, lean=self.lean)

    def before_weights(self) -> "Gradient":
        """Without what the size of the weights just before has added."""
        return replace(self.scaled(1 / self.tied), tied=1.0, along=self.along)


def scalar(value: float, rank: int) -> Tensor:
    """A map that is the same everywhere."""
    return torch.full((1,) * rank, float(value), dtype=torch.float64)


def compress(full: Tensor) -> Tensor:
    """Keep one element of each dimension along which a map does not vary, and none of the memory of the others."""
    small = full
    for dim in range(full.dim()):
        if small.shape[dim] > 1:
            first, middle = (small.narrow(dim, k, 1) for k in (0, small.shape[dim] // 2))
            if small.stride(dim) == 0 or (bool((first == middle).all()) and bool((small == first).all())):
                small = first
    return small.contiguous() if small is full else small.clone(memory_format=torch.contiguous_format)


def like_most(sizes: Tensor) -> Tensor:
    """Which places are like nearly all others in size; where sizes differ everywhere, within a factor of four.

    Places that are nothing, as padding is, are not asked, and are like none.
    """
    some = sizes[sizes > 0]
    if not some.numel():
        return torch.ones_like(sizes, dtype=torch.bool)
    ratio = sizes / some.median()
    alike = (ratio - 1).abs() <= 1e-3
    return alike if int(alike.sum()) > 0.9 * some.numel() else (ratio > 0.25) & (ratio < 4)


def fresh(
    name: str, shape: tuple[int, ...], axes: Axes, *, mean: Tensor, second: Tensor, far: Tensor, other: Tensor
) -> Signal:
    """A signal that is independent of every other one."""
    return Signal(name, shape, axes, mean, second, far, other, terms={name: 1.0})
