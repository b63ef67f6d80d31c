"""The leading principal components of large images, from one pass, without any D×D matrix.

With C the covariance of D-vectors and Ω a random D×l matrix, Y = C·Ω is a sum over images, Σ x(xᵀΩ)/n, so it
streams and adds up like any other statistic, in D·l numbers. From it comes the Nyström approximation
Ĉ = Y(ΩᵀY)⁺Yᵀ ⪯ C, whose leading eigenvectors are those of C to high accuracy (Tropp, Yurtsever, Udell & Cevher,
*Fixed-Rank Approximation of a Positive-Semidefinite Matrix from Streaming Data*, NIPS 2017, algorithm 3).

Trace(C) is summed exactly on the side. As Ĉ ⪯ C, the components hold at least Σλ̂, so trace(C) − Σλ̂ bounds the
mean squared error of the projection from above: the error that is reported cannot be too small. Integer pixels are
multiplied in float32 and summed in float64, which leaves about 2·10⁻⁷ of the largest eigenvalue uncertain.

Memory at 224×224×3 (D = 150,528) and rank 512 with l = 640: Y 771 MB (float64), Ω 385 MB (float32), the result
308 MB (float32). The full matrix would need 181 GB.
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from firstlight.errors import FirstlightError
from firstlight.statistics.exact import Packed
from firstlight.statistics.histogram import FULL_SCALE
from firstlight.statistics.provenance import Provenance
from firstlight.statistics.vectors import pixel_kind

Floats = NDArray[np.float64]

_BAND = 8192
"""Rows of a tall matrix that are handled at a time."""


@dataclass(frozen=True, eq=False)
class LowRank:
    """The leading principal components of whole images.

    Attributes:
        kind, shape, images, order, transform, quarantine, provenance: as in `Vectors`.
        mean: H×W×C, full scale.
        values: r eigenvalues of the covariance, falling, full scale squared; never above the true ones.
        vectors: D×r float32, orthonormal columns.
        total: trace of the covariance: the variance of all D components together.
        low, high: smallest and largest value, full scale.
    """

    kind: str
    shape: tuple[int, int, int]
    images: int
    mean: Floats
    values: Floats
    vectors: NDArray[np.float32]
    total: float
    low: float
    high: float
    order: str = "RGB"
    transform: str = ""
    quarantine: tuple[tuple[str, str], ...] = ()
    provenance: Provenance | None = None

    @property
    def channels(self) -> int:
        """C."""
        return self.shape[2]

    @property
    def captured(self) -> float:
        """Share of the variance that the components hold, 0…1; a lower bound."""
        return float(np.sum(self.values)) / self.total if self.total else 1.0

    @property
    def error(self) -> float:
        """Root mean square error of an image rebuilt from the components, per value, full scale; an upper bound."""
        lost = max(self.total - float(np.sum(self.values)), 0.0)
        return float(np.sqrt(lost / len(self.vectors)))

    @property
    def rest(self) -> float:
        """Variance of each of the D − r other components, all taken alike (Tipping & Bishop 1999, equation 8)."""
        others = len(self.vectors) - len(self.values)
        return max(self.total - float(np.sum(self.values)), 0.0) / others if others else 0.0


@dataclass(frozen=True, eq=False)
class LowRankSketch(Packed):
    """What has been seen of the images so far, in D·l numbers; a value with `+`.

    Sketches add up when they share shape, rank, seed and start. Sums are float64: the same blocks added in the
    same order give the same bits.

    Attributes:
        kind, shape, images, low, high, order, transform: as in `Vectors`.
        rank: r, components wanted.
        start: Ω, D×l float32: random numbers, or an orthonormal basis that an earlier pass found.
        sums, squares: Σx and Σx² about the middle of the range, D float64, full scale.
        product: Σ x(xᵀΩ), D×l float64.
    """

    kind: str
    shape: tuple[int, int, int]
    rank: int
    start: NDArray[np.float32]
    images: int
    sums: Floats
    squares: Floats
    product: Floats
    low: float = np.inf
    high: float = -np.inf
    order: str = "RGB"
    transform: str = ""

    @classmethod
    def empty(
        cls, kind: str, shape: tuple[int, int, int], rank: int, *, seed: int = 0, oversample: int | None = None
    ) -> "LowRankSketch":
        """Nothing seen yet.

        Args:
            kind: "uint8", "uint16" or "float".
            shape: height, width and channels.
            rank: components wanted.
            seed: of Ω.
            oversample: l − rank; by default a quarter of the rank, and at least 16.

        Raises:
            FirstlightError: slug ``bad-rank``.
        """
        size = int(np.prod(shape))
        if not 1 <= rank <= size:
            raise FirstlightError(
                f"rank {rank} of {size:,} components", "give a rank from 1 to that number", slug="bad-rank"
            )
        extra = max(16, rank // 4) if oversample is None else oversample
        width = min(size, rank + extra)
        start = np.random.default_rng(seed).standard_normal((size, width), np.float32)
        return cls(kind, shape, rank, start, 0, np.zeros(size), np.zeros(size), np.zeros((size, width)))

    def add(self, images: NDArray[Any]) -> "LowRankSketch":
        """This sketch after N×H×W×C more images. Its own arrays are reused: the old value must not be used again.

        Raises:
            FirstlightError: slugs ``not-pixels`` and ``sizes-differ``.
        """
        kind = pixel_kind(images)
        if kind != self.kind or images.shape[1:] != self.shape:
            raise FirstlightError(
                f"{kind} images of {images.shape[1:]} given, {self.kind} of {self.shape} begun",
                "resize and crop all images to one size",
                slug="sizes-differ",
            )
        scale, middle = FULL_SCALE[kind], self._middle
        low, high = float(images.min()) / scale, float(images.max()) / scale
        rows = images.reshape(len(images), -1)
        lane: type[Any] = np.float64 if kind == "float" else np.float32
        projected = np.zeros((len(rows), self.start.shape[1]))
        for band in _bands(len(self.start)):
            part = rows[:, band].astype(lane) / lane(scale) - lane(middle)
            projected += part @ self.start[band]
            self.sums[band] += part.sum(axis=0, dtype=np.float64)
            self.squares[band] += (part * part).sum(axis=0, dtype=np.float64)
        projected_lane = projected.astype(lane)
        for band in _bands(len(self.start)):
            part = rows[:, band].astype(lane) / lane(scale) - lane(middle)
            self.product[band] += part.T @ projected_lane
        return replace(self, images=self.images + len(images), low=min(self.low, low), high=max(self.high, high))

    def __add__(self, other: "LowRankSketch") -> "LowRankSketch":
        """What both have seen.

        Raises:
            FirstlightError: slug ``do-not-belong-together``, when they were begun differently.
        """
        if (
            (self.kind, self.shape, self.rank, self.order, self.transform)
            != (other.kind, other.shape, other.rank, other.order, other.transform)
            or self.start.shape != other.start.shape
            or not np.array_equal(self.start[:64], other.start[:64])
        ):
            raise FirstlightError(
                "these sketches were begun differently",
                "begin both with the same kind, shape, rank and seed",
                slug="do-not-belong-together",
                call="sketch + sketch",
            )
        return replace(
            self,
            images=self.images + other.images,
            sums=self.sums + other.sums,
            squares=self.squares + other.squares,
            product=self.product + other.product,
            low=min(self.low, other.low),
            high=max(self.high, other.high),
        )

    @classmethod
    def from_dict(cls, value: dict[str, Any]) -> "LowRankSketch":
        """The inverse of `to_dict`."""
        height, width, channels = value["shape"]
        return replace(super().from_dict(value), shape=(height, width, channels))

    def again(self) -> "LowRankSketch":
        """An empty sketch whose Ω is what this one found: a second pass over the same images is more exact.

        Each such pass is one step of subspace iteration (Halko, Martinsson & Tropp 2011, §4.5).
        """
        basis, _ = _components(self._finished_product(), self.start, self.start.shape[1])
        size, width = self.start.shape
        short = np.zeros((size, width), np.float32)
        short[:, : basis.shape[1]] = basis
        if basis.shape[1] < width:  # fewer images than columns: the rest stays random
            short[:, basis.shape[1] :] = self.start[:, basis.shape[1] :] / np.sqrt(size)
        fresh = LowRankSketch(
            self.kind, self.shape, self.rank, short, 0, np.zeros(size), np.zeros(size), np.zeros((size, width))
        )
        return replace(fresh, order=self.order, transform=self.transform)

    def components(self) -> LowRank:
        """The leading components of all images seen.

        Fewer images than `rank` have fewer components; there are then as many as there are.

        Raises:
            FirstlightError: slug ``no-images``, before two images were seen.
        """
        if self.images < 2:
            raise FirstlightError("fewer than two images were seen", "add images first", slug="no-images")
        mean = self.sums / self.images
        total = float(np.sum(self.squares / self.images - mean**2))
        rank = min(self.rank, self.images - 1)
        vectors, values = _components(self._finished_product(), self.start, rank)
        return LowRank(
            self.kind,
            self.shape,
            self.images,
            (mean + self._middle).reshape(self.shape),
            values,
            vectors,
            total,
            self.low,
            self.high,
            self.order,
            self.transform,
        )

    @property
    def _middle(self) -> float:
        return 0.0 if self.kind == "float" else 0.5

    def _finished_product(self) -> Floats:
        """Y = C·Ω from the sums: Σx(xᵀΩ)/n − m(mᵀΩ)."""
        mean = self.sums / self.images
        projected = np.zeros(self.start.shape[1])
        for band in _bands(len(mean)):
            projected += mean[band] @ self.start[band]
        product = self.product / self.images
        for band in _bands(len(mean)):
            product[band] -= np.outer(mean[band], projected)
        return product


def _components(product: Floats, start: NDArray[np.float32], rank: int) -> tuple[NDArray[np.float32], Floats]:
    """Eigenvectors D×r and eigenvalues r of the Nyström approximation; overwrites `product`.

    Shifted by ν for stability: Y_ν = Y + νΩ, B = ΩᵀY_ν = R ᵀR, F = Y_ν R⁻¹, so Ĉ + ν = FFᵀ. The small matrix
    FᵀF = VΛVᵀ has the same eigenvalues, and F V Λ^(−1/2) the eigenvectors (algorithm 3 of Tropp et al., with the
    economical SVD taken through the Gram matrix: λ itself is wanted, not its root, so nothing is lost).
    """
    width = product.shape[1]
    shift = float(np.finfo(np.float32).eps) * np.sqrt(len(product)) * float(np.abs(product).max() or 1.0)
    shift /= float(np.sqrt(np.mean(start[:_BAND].astype(np.float64) ** 2)) or 1.0)
    core = np.zeros((width, width))
    for band in _bands(len(product)):
        block = start[band].astype(np.float64)
        product[band] += shift * block
        core += block.T @ product[band]
    eigenvalues, basis = np.linalg.eigh((core + core.T) / 2)
    usable = eigenvalues > eigenvalues[-1] * 1e-13
    whiten = basis[:, usable] / np.sqrt(eigenvalues[usable])
    gram = np.zeros((int(usable.sum()),) * 2)
    for band in _bands(len(product)):
        factor = product[band] @ whiten
        gram += factor.T @ factor
    values, rotation = np.linalg.eigh(gram)
    values, rotation = values[::-1][:rank], rotation[:, ::-1][:, :rank]
    sound = values > max(2 * shift, values[0] * 1e-12)
    values, rotation = values[sound], rotation[:, sound]
    vectors = np.empty((len(product), len(values)), np.float32)
    turn = whiten @ (rotation / np.sqrt(values))
    for band in _bands(len(product)):
        vectors[band] = product[band] @ turn
    return vectors, np.maximum(values - shift, 0)


def _bands(length: int) -> list[slice]:
    return [slice(start, min(start + _BAND, length)) for start in range(0, length, _BAND)]
