"""AlexNet's colour augmentation, fitted on the data ("fancy PCA").

Krizhevsky, Sutskever & Hinton (2012), §4.1: to every pixel of an image add one and the same vector,

    [p₁ p₂ p₃] [α₁λ₁ α₂λ₂ α₃λ₃]ᵀ,   α_i ~ N(0, 0.1²), drawn once per image,

with p and λ the eigenvectors and eigenvalues of the covariance of the data set's pixels.

α·λ has the units of a pixel *squared*, so the same α means something else for every range: on 0…255 pixels the
paper's formula is 255 times as strong, relative to the range, as on 0…1. The published eigenvalues (0.2175 0.0188
0.0045) belong to 0…1, and that is the convention here: pixels are u = x/R, with R the full scale of integers, or the
range of values seen for floats; the shift is R·P·(α∘λ_u), and with λ_u = λ_x/R² it is P·(α∘λ_x)/R.
"""

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from firstlight._typing import Floats
from firstlight.errors import FirstlightError
from firstlight.recipe.inputs import Input

if TYPE_CHECKING:
    from torch import nn

    from firstlight.statistics import Statistics


@dataclass(frozen=True, eq=False)
class ColourShift:
    """Adds a random colour along the principal axes of the data to every image, before the recipe.

    Attributes:
        input: the images it accepts.
        values: C eigenvalues of the channel covariance, full scale squared (floats: their own units squared).
        vectors: C×C eigenvectors in columns.
        std: of α; 0.1 in the paper.
    """

    input: Input
    values: Floats
    vectors: Floats
    std: float = 0.1

    @classmethod
    def fit(cls, stats: "Statistics", *, std: float = 0.1) -> "ColourShift":
        """From statistics of the training images.

        Raises:
            FirstlightError: slug ``bad-std``, for a negative one.
        """
        if not std >= 0:
            raise FirstlightError(f"std={std} is negative", "give 0.1, as the paper does", slug="bad-std")
        values, vectors = stats.eigen
        return cls(Input.of(stats), values, vectors, std)

    @property
    def range(self) -> float:
        """R in the recipe's units: 1 for integers, the range of values seen for floats."""
        return self.input.high - self.input.low if self.input.kind == "float" else 1.0

    def shifts(self, images: int, seed: int | np.random.Generator) -> Floats:
        """The colours that `images` images get: images×C, full scale. One seed gives one sequence."""
        random = np.random.default_rng(seed)
        alpha = random.normal(0, self.std, (images, len(self.values)))
        return np.asarray((alpha * self.values / self.range) @ self.vectors.T)

    def __call__(self, images: Any, seed: int | np.random.Generator) -> Any:
        """Shift every image of a batch by its own colour.

        Args:
            images: as `Recipe.__call__` takes them.
            seed: an integer, or a generator that goes on from where it is.

        Returns:
            float32 in units of full scale, as the recipe takes floats; values may leave 0…1 a little.

        Raises:
            FirstlightError: as `Recipe.__call__`.
        """
        torch = sys.modules.get("torch")
        if torch is not None and isinstance(images, torch.Tensor):
            self.input.check_channels(tuple(images.shape), -3, "C×H×W", -1)
            scale = self.input.scale_of(str(images.dtype).removeprefix("torch."))
            shifts = torch.from_numpy(self.shifts(len(images) if images.ndim == 4 else 1, seed)).float()
            shifts = shifts.to(images.device)[:, :, None, None]
            return images.float() / scale + (shifts if images.ndim == 4 else shifts[0])
        array: NDArray[Any] = np.asarray(images)
        self.input.check_channels(array.shape, -1, "H×W×C", -3)
        scale = self.input.scale_of(str(array.dtype))
        shifts = self.shifts(len(array) if array.ndim == 4 else 1, seed)[:, None, None]
        return (array / scale + (shifts if array.ndim == 4 else shifts[0])).astype(np.float32)

    def transform(self, seed: int) -> "nn.Module":
        """A module for torchvision's v2 and for datasets: every image it meets gets the next colour of `seed`.

        Each worker of a ``DataLoader`` has its own sequence.
        """
        from firstlight.recipe.transform import ShiftTransform

        return ShiftTransform(self, seed)
