"""Steps that mix neighbouring pixels or whole images: whitening over patches and over pixels."""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from firstlight._typing import Floats
from firstlight.errors import FirstlightError
from firstlight.recipe.steps import Shape, Step, does_not_fit, frozen_array

_BAND = 8192
"""Rows of D×r vectors that are turned into float64 at a time."""


@dataclass(frozen=True, eq=False)
class Patches(Step):
    """A convolution: the patch around every pixel, times a matrix. Beyond the border the image is reflected.

    y_k(p) = Σ_{i,j,c} filters[k, i, j, c]·x_c(p + (i, j) − ⌊(h, w)/2⌋) + shift_k

    Attributes:
        filters: K×h×w×C.
        shift: K.
        center: C×K, how the middle pixel of a patch follows from y − shift, or None when it does not.
        exact: whether `center` gives it back exactly.
    """

    name: ClassVar[str] = "patches"
    filters: Floats
    shift: Floats
    center: Floats | None = None
    exact: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "filters", frozen_array(self.filters, (4,), "Patches.filters"))
        object.__setattr__(self, "shift", frozen_array(self.shift, (1,), "Patches.shift"))
        if self.center is not None:
            object.__setattr__(self, "center", frozen_array(self.center, (2,), "Patches.center"))

    @property
    def pads(self) -> tuple[int, int, int, int]:
        """Rows and columns to reflect: top, bottom, left, right."""
        height, width = self.filters.shape[1:3]
        return (height // 2, (height - 1) // 2, width // 2, (width - 1) // 2)

    def apply(self, pixels: Floats) -> Floats:
        """See `Step.apply`."""
        outputs, height, width, _ = self.filters.shape
        top, bottom, left, right = self.pads
        n, rows, columns, _ = pixels.shape
        padded = np.pad(pixels, ((0, 0), (top, bottom), (left, right), (0, 0)), mode="reflect")
        windows = np.lib.stride_tricks.sliding_window_view(padded, (height, width), (1, 2))
        matrix = self.filters.transpose(3, 1, 2, 0).reshape(-1, outputs)  # as the windows come: C, h, w
        result = np.empty((n, rows, columns, outputs))
        for image in range(n):
            result[image] = (windows[image].reshape(rows * columns, -1) @ matrix).reshape(rows, columns, outputs)
        return result + self.shift

    def inverse(self) -> "Unpatch":
        """The middle pixel of every patch.

        Raises:
            FirstlightError: slug ``no-inverse``, for filters that keep only the middle of a whitened patch.
        """
        if self.center is None:
            raise FirstlightError(
                "whitening over patches with one filter per channel is a blur's opposite: nothing undoes it exactly",
                "use Recipe.pca over patches, which keeps all components, or whiten over channels or pixels",
                slug="no-inverse",
                call="recipe.inverse()",
            )
        return Unpatch(self.center, self.shift)

    @property
    def lossless(self) -> bool:
        """Whether the middle pixels come back exactly."""
        return self.exact

    def shape(self, before: Shape) -> Shape:
        """See `Step.shape`."""
        outputs, height, width, channels = self.filters.shape
        if channels != before[2]:
            raise does_not_fit(self, f"{channels} channels against {before[2]}")
        for side, patch in zip(before[:2], (height, width), strict=True):
            if side is not None and side <= patch // 2:
                raise does_not_fit(self, f"patches of {height}×{width} against images of {before[0]}×{before[1]}")
        return (before[0], before[1], outputs)

    def __str__(self) -> str:
        outputs, height, width, channels = self.filters.shape
        return f"convolve with {outputs} filters of {height}×{width}×{channels}, borders reflected"


@dataclass(frozen=True, eq=False)
class Unpatch(Step):
    """center·(y − shift): the middle pixel of every patch from its components.

    Attributes:
        center: C×K.
        shift: K.
    """

    name: ClassVar[str] = "unpatch"
    center: Floats
    shift: Floats

    def __post_init__(self) -> None:
        object.__setattr__(self, "center", frozen_array(self.center, (2,), "Unpatch.center"))
        object.__setattr__(self, "shift", frozen_array(self.shift, (1,), "Unpatch.shift"))

    def apply(self, pixels: Floats) -> Floats:
        """See `Step.apply`."""
        return np.asarray((pixels - self.shift) @ self.center.T)

    def inverse(self) -> Step:
        """There is none: the neighbours are gone."""
        raise FirstlightError(
            "one pixel does not give back its patch", "keep the recipe itself", slug="no-inverse", call="inverse"
        )

    def shape(self, before: Shape) -> Shape:
        """See `Step.shape`."""
        if before[2] != self.center.shape[1]:
            raise does_not_fit(self, f"{self.center.shape[1]} components against {before[2]}")
        return (before[0], before[1], self.center.shape[0])

    def __str__(self) -> str:
        return f"take the middle of patches from {self.center.shape[1]} components"


@dataclass(frozen=True, eq=False)
class _OfImages(Step):
    """Principal axes of whole images.

    Attributes:
        vectors: D×r, orthonormal columns; float32 where they were fitted so. D = H·W·C in this order.
        factor: r, what each component is multiplied by; never 0.
        image: H, W, C.
    """

    vectors: NDArray[Any]
    factor: Floats
    image: tuple[int, int, int]

    def __post_init__(self) -> None:
        dtype = np.float32 if getattr(self.vectors, "dtype", None) == np.float32 else np.float64
        object.__setattr__(self, "vectors", frozen_array(self.vectors, (2,), f"{type(self).__name__}.vectors", dtype))
        object.__setattr__(self, "factor", frozen_array(self.factor, (1,), f"{type(self).__name__}.factor"))
        object.__setattr__(self, "image", tuple(int(side) for side in self.image))

    def project(self, flat: Floats) -> Floats:
        """N×D → N×r: Vᵀx."""
        result = np.zeros((len(flat), self.vectors.shape[1]))
        for start in range(0, len(self.vectors), _BAND):
            result += flat[:, start : start + _BAND] @ self.vectors[start : start + _BAND].astype(np.float64)
        return result

    def expand(self, components: Floats) -> Floats:
        """N×r → N×D: Vy."""
        result = np.empty((len(components), len(self.vectors)))
        for start in range(0, len(self.vectors), _BAND):
            result[:, start : start + _BAND] = components @ self.vectors[start : start + _BAND].T.astype(np.float64)
        return result

    def _check_image(self, before: Shape) -> None:
        if any(side is not None and side != wanted for side, wanted in zip(before, self.image, strict=True)):
            raise does_not_fit(self, f"images of {self.image} against {before}")


@dataclass(frozen=True, eq=False)
class Pixels(_OfImages):
    """V diag(factor) Vᵀx + rest·(x − VVᵀx): a symmetric map of whole images, applied without its D×D matrix.

    Attributes:
        rest: what every direction outside the r vectors is multiplied by; never 0.
    """

    name: ClassVar[str] = "pixels"
    rest: float = 1.0

    def apply(self, pixels: Floats) -> Floats:
        """See `Step.apply`."""
        flat = pixels.reshape(len(pixels), -1)
        components = self.project(flat)
        return (self.expand(components * (self.factor - self.rest)) + self.rest * flat).reshape(pixels.shape)

    def inverse(self) -> "Pixels":
        """The same with 1/factor and 1/rest."""
        return Pixels(self.vectors, 1 / self.factor, self.image, 1 / self.rest)

    def shape(self, before: Shape) -> Shape:
        """See `Step.shape`."""
        self._check_image(before)
        return self.image

    def __str__(self) -> str:
        size, rank = self.vectors.shape
        outside = "" if rank == size else f", {self.rest:.4g} times everything else"
        return f"whiten {'×'.join(map(str, self.image))} images along {rank} of {size} axes{outside}"


@dataclass(frozen=True, eq=False)
class Components(_OfImages):
    """diag(factor) Vᵀx: r components of a whole image, as an image of 1×1×r."""

    name: ClassVar[str] = "components"

    def apply(self, pixels: Floats) -> Floats:
        """See `Step.apply`."""
        components = self.project(pixels.reshape(len(pixels), -1)) * self.factor
        return components.reshape(len(pixels), 1, 1, -1)

    def inverse(self) -> "Expand":
        """The nearest image in the span of the axes."""
        return Expand(self.vectors, 1 / self.factor, self.image)

    @property
    def lossless(self) -> bool:
        """Whether there are as many components as values."""
        return self.vectors.shape[0] == self.vectors.shape[1]

    def shape(self, before: Shape) -> Shape:
        """See `Step.shape`."""
        self._check_image(before)
        return (1, 1, self.vectors.shape[1])

    def __str__(self) -> str:
        size, rank = self.vectors.shape
        return f"project {'×'.join(map(str, self.image))} images onto {rank} of {size} axes"


@dataclass(frozen=True, eq=False)
class Expand(_OfImages):
    """V diag(factor) y: the image H×W×C of r components."""

    name: ClassVar[str] = "expand"

    def apply(self, pixels: Floats) -> Floats:
        """See `Step.apply`."""
        return self.expand(pixels.reshape(len(pixels), -1) * self.factor).reshape(len(pixels), *self.image)

    def inverse(self) -> "Components":
        """Back to components."""
        return Components(self.vectors, 1 / self.factor, self.image)

    def shape(self, before: Shape) -> Shape:
        """See `Step.shape`."""
        if before != (1, 1, self.vectors.shape[1]):
            raise does_not_fit(self, f"{self.vectors.shape[1]} components against images of {before}")
        return self.image

    def __str__(self) -> str:
        size, rank = self.vectors.shape
        return f"rebuild {'×'.join(map(str, self.image))} images from {rank} of {size} axes"
