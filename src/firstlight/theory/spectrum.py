"""In how many directions a kernel's elements vary, and what a norm by their variance makes of it."""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import torch

from firstlight._typing import Floats

if TYPE_CHECKING:
    from firstlight.theory.anchors import Anchors

_T = np.exp(np.linspace(-12.0, 8.0, 240))
_MOST = 10.0


@dataclass(frozen=True)
class Spectrum:
    """Of the kernel over all elements, which is that of the covariance of what a channel's weights read.

    The variance of a channel is ``Σ λ_k w_k²`` with normal weights. A norm of each channel divides by it, and

        E 1/σ² = ∫ Π (1 + 2tλ_j)^(-1/2) dt,    E w_k²/σ² = ∫ Π (1 + 2tλ_j)^(-1/2) / (1 + 2tλ_k) dt,

    so that what many elements share, large eigenvalues, counts for less after the norm than before. What varies within
    blocks has as many equal eigenvalues as its mean square asks for, `Anchors.noise`: sites that are no blocks' means
    lie in a space of as many dimensions as there are channels, or pixels under a kernel.

    Attributes:
        values: eigenvalues; together with `rest` their sum is one.
        vectors: of unit length over blocks, [M, M].
        rest: the variance within blocks, of `count` eigenvalues.
        own: that of each block, [M].
        noise: of the kernel, over its squared size.
    """

    values: Floats
    vectors: Floats
    rest: float
    own: Floats
    noise: float

    @classmethod
    def of(cls, middle: "Anchors", sites: int) -> "Spectrum":
        """Of a kernel that is centred."""
        size = max(float(middle.own.mean()), 1e-300)
        whole = middle.whole(sites) / size
        values, vectors = np.linalg.eigh((whole / len(whole)).numpy())
        values = np.maximum(values, 0.0)
        own = (middle.own / size - whole.diagonal()).clamp_min(0).numpy()
        total = values.sum() + own.mean()
        return cls(values / total, vectors, float(own.mean() / total), own / total, middle.noise / max(size**2, 1e-300))

    def without(self, noise: float) -> "Spectrum":
        """The same where so much of the noise is counted elsewhere."""
        return replace(self, noise=self.noise - noise)

    @property
    def count(self) -> float:
        """Eigenvalues that the variance within blocks has."""
        return max(self.rest**2 / max(self.noise, 1e-9), 1.0)

    @cached_property
    def _decay(self) -> Floats:
        log = np.log1p(2 * _T[:, None] * self.values).sum(1)
        return np.asarray(np.exp(-0.5 * (log + self.count * np.log1p(2 * _T * self.rest / self.count))))

    @cached_property
    def inverse(self) -> float:
        """``E 1/σ² · E σ²``; cut where few eigenvalues leave it without bound."""
        return min(float(np.trapezoid(self._decay, _T)), _MOST)

    @cached_property
    def spread(self) -> float:
        """Variance of 1/σ² over its mean squared."""
        return min(max(float(np.trapezoid(_T * self._decay, _T)) / self.inverse**2 - 1, 0.0), _MOST)

    def equalized(self, anchors: "Anchors", sites: int) -> "Anchors":
        """The kernel after the norm, ``E z² = 1``."""
        share = np.trapezoid(self._decay[:, None] / (1 + 2 * _T[:, None] * self.values), _T, axis=0)
        kept = torch.from_numpy((self.vectors * (self.values * share * len(self.values))) @ self.vectors.T)
        left = float(np.trapezoid(self._decay / (1 + 2 * _T * self.rest / self.count), _T))
        own = kept.diagonal() + torch.from_numpy(self.own) * left
        return anchors.becoming(kept, own).apart(sites).scaled(1.0)


def sharing(anchors: "Anchors", sites: int) -> float:
    """Mean squared correlation of two elements of one channel, sizes included: ``mean K(i, j)²/(mean K(i, i))²``.

    It is 1 when all elements say the same and 1/n for n independent ones. The variance of a channel over n elements of
    which K is the kernel varies, relatively, by twice this.
    """
    share = min(max(anchors.places, 1) / max(sites, 1), 1.0)
    pairs = anchors.values**2
    pairs.diagonal().mul_(1 - share).add_(anchors.own**2, alpha=share)
    square = float(anchors.own.mean()) ** 2
    return min((float(pairs.mean()) + anchors.noise) / square, 1.0) if square > 0 else 1.0


def alike_within(anchors: "Anchors", sites: int) -> torch.Tensor:
    """`sharing` of the sites of each sample about their own mean, [N]."""
    n, p = anchors.samples, anchors.places
    if p < 2:
        return torch.zeros(n, dtype=torch.float64)
    whole, values = (
        m.view(n, p, n, p).diagonal(dim1=0, dim2=2).permute(2, 0, 1) for m in (anchors.whole(sites), anchors.values)
    )
    rows, level = whole.mean(2), whole.mean((1, 2))
    own = anchors.own.view(n, p) - 2 * rows + level[:, None]
    pairs = (values - rows[:, :, None] - rows[:, None] + level[:, None, None]) ** 2
    share = min(p / max(sites, 1), 1.0)
    same = pairs.diagonal(dim1=1, dim2=2)
    total = pairs.sum((1, 2)) - same.sum(1) + ((1 - share) * same + share * own**2).sum(1)
    return (total / (own.mean(1) ** 2 * p * p).clamp_min(1e-300)).clamp(0, 1)
