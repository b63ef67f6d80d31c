"""The steps a recipe is made of: frozen values that know their own arithmetic, and nothing of frameworks.

Every step takes and returns float64 pixels N×H×W×C in units of full scale (uint8 / 255, uint16 / 65535, floats
as they are). `apply` is the plain definition, in float64; the fast paths elsewhere are tested against it.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from firstlight._typing import Floats
from firstlight.errors import FirstlightError

Shape = tuple[int | None, int | None, int]
"""Height, width and channels; None where any size will do."""

KINDS: dict[str, type["Step"]] = {}
"""Every step by the name it has in a recipe's file."""


@dataclass(frozen=True, eq=False)
class Step(ABC):
    """One thing done to every image of a batch."""

    name: ClassVar[str]

    def __init_subclass__(cls) -> None:
        if "name" in cls.__dict__:
            KINDS[cls.name] = cls

    @abstractmethod
    def apply(self, pixels: Floats) -> Floats:
        """N×H×W×C float64 → the same with this step done, float64."""

    @abstractmethod
    def inverse(self) -> "Step":
        """The step that undoes this one.

        Raises:
            FirstlightError: slug ``no-inverse``, where nothing can.
        """

    def shape(self, before: Shape) -> Shape:
        """Shape of an image after this step.

        Raises:
            FirstlightError: slug ``step-does-not-fit``, when it cannot follow what comes before it.
        """
        return before

    @property
    def lossless(self) -> bool:
        """Whether `inverse` gives back everything."""
        return True

    @abstractmethod
    def __str__(self) -> str: ...

    def to_dict(self) -> dict[str, Any]:
        """The step as plain values and arrays, by name."""
        return {"step": self.name, **{field.name: getattr(self, field.name) for field in fields(self)}}


@dataclass(frozen=True, eq=False)
class Subtract(Step):
    """x − value.

    Attributes:
        value: C (one number per channel) or H×W×C (one per position), full scale.
    """

    name: ClassVar[str] = "subtract"
    value: Floats

    def __post_init__(self) -> None:
        _freeze(self, "value", (1, 3))

    def apply(self, pixels: Floats) -> Floats:
        """See `Step.apply`."""
        return pixels - self.value

    def inverse(self) -> "Subtract":
        """Adds the value."""
        return Subtract(-self.value)

    def shape(self, before: Shape) -> Shape:
        """See `Step.shape`."""
        return _elementwise(self, self.value, before)

    def __str__(self) -> str:
        return f"subtract {_shown(self.value)}"


@dataclass(frozen=True, eq=False)
class Divide(Step):
    """x / value.

    Attributes:
        value: C or H×W×C, positive or negative, never 0.
    """

    name: ClassVar[str] = "divide"
    value: Floats

    def __post_init__(self) -> None:
        _freeze(self, "value", (1, 3))
        if not np.all(self.value):
            raise FirstlightError(
                "a scale of 0 divides by nothing: a channel is constant",
                "leave the constant channel out, or only subtract the mean (Recipe.vgg)",
                slug="constant-channel",
            )

    def apply(self, pixels: Floats) -> Floats:
        """See `Step.apply`."""
        return pixels / self.value

    def inverse(self) -> "Divide":
        """Multiplies by the value."""
        return Divide(1 / self.value)

    def shape(self, before: Shape) -> Shape:
        """See `Step.shape`."""
        return _elementwise(self, self.value, before)

    def __str__(self) -> str:
        return f"divide by {_shown(self.value)}"


@dataclass(frozen=True, eq=False)
class Reorder(Step):
    """Channel `order[k]` becomes channel k; (2, 1, 0) turns RGB into BGR.

    Attributes:
        order: a permutation of 0…C−1.
    """

    name: ClassVar[str] = "reorder"
    order: tuple[int, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "order", tuple(int(k) for k in self.order))
        if sorted(self.order) != list(range(len(self.order))):
            raise FirstlightError(
                f"{self.order} is no order of channels",
                "name every channel from 0 on exactly once",
                slug="bad-channel-order",
            )

    def apply(self, pixels: Floats) -> Floats:
        """See `Step.apply`."""
        return pixels[..., list(self.order)]

    def inverse(self) -> "Reorder":
        """The inverse permutation."""
        return Reorder(tuple(int(k) for k in np.argsort(self.order)))

    def shape(self, before: Shape) -> Shape:
        """See `Step.shape`."""
        _same_channels(self, len(self.order), before)
        return before

    def __str__(self) -> str:
        return f"channels in the order {' '.join(map(str, self.order))}"


@dataclass(frozen=True, eq=False)
class Channels(Step):
    """The channels of every pixel times a matrix: a rotation (PCA), a whitening, or a reduction.

    Attributes:
        matrix: K×C; output channel k is Σ_c matrix[k, c]·x_c.
    """

    name: ClassVar[str] = "channels"
    matrix: Floats

    def __post_init__(self) -> None:
        _freeze(self, "matrix", (2,))

    def apply(self, pixels: Floats) -> Floats:
        """See `Step.apply`."""
        return np.asarray(pixels @ self.matrix.T)

    def inverse(self) -> "Channels":
        """The inverse matrix; for fewer outputs than inputs the pseudoinverse, the nearest that exists."""
        if self.lossless:
            return Channels(np.asarray(np.linalg.inv(self.matrix), np.float64))
        return Channels(np.asarray(np.linalg.pinv(self.matrix), np.float64))

    @property
    def lossless(self) -> bool:
        """Whether no direction is dropped."""
        outputs, inputs = self.matrix.shape
        return bool(outputs == inputs and np.linalg.matrix_rank(self.matrix) == inputs)

    def shape(self, before: Shape) -> Shape:
        """See `Step.shape`."""
        _same_channels(self, self.matrix.shape[1], before)
        return (before[0], before[1], self.matrix.shape[0])

    def __str__(self) -> str:
        outputs, inputs = self.matrix.shape
        rows = "; ".join(" ".join(f"{value:.4g}" for value in row) for row in self.matrix)
        return f"mix channels by a {outputs}×{inputs} matrix" + (f" [{rows}]" if inputs <= 4 else "")


def step_from_dict(value: dict[str, Any]) -> Step:
    """The inverse of `Step.to_dict`.

    Raises:
        ValueError: there is no such step.
    """
    if value["step"] not in KINDS:
        raise ValueError(f"there is no step {value['step']!r}")
    return KINDS[value["step"]](**{name: item for name, item in value.items() if name != "step"})


def frozen_array(value: ArrayLike, dimensions: Sequence[int], name: str, dtype: Any = np.float64) -> NDArray[Any]:
    """A read-only copy of `value` as finite floats.

    Raises:
        FirstlightError: slug ``bad-constants``, for another number of dimensions, nothing, nan or infinity.
    """
    array = np.array(value, dtype)
    if array.ndim not in dimensions or array.size == 0 or not np.isfinite(array).all():
        wanted = " or ".join(str(d) for d in dimensions)
        raise FirstlightError(
            f"{name} must be finite numbers in {wanted} dimension(s), not shape {array.shape}"
            + ("" if np.isfinite(array).all() else " with nan or infinity"),
            "give one number per channel, or an image H×W×C; nan comes from channels without a valid pixel",
            slug="bad-constants",
        )
    array.flags.writeable = False
    return array


def does_not_fit(step: Step, cause: str) -> FirstlightError:
    """The error to raise when `step` cannot follow what comes before it."""
    return FirstlightError(
        f"{type(step).__name__}: {cause}", "make the recipe from statistics of such images", slug="step-does-not-fit"
    )


def _freeze(step: Step, name: str, dimensions: tuple[int, ...]) -> None:
    value = frozen_array(getattr(step, name), dimensions, f"{type(step).__name__}.{name}")
    object.__setattr__(step, name, value)


def _elementwise(step: Step, value: Floats, before: Shape) -> Shape:
    _same_channels(step, value.shape[-1], before)
    if value.ndim == 1:
        return before
    for known, wanted in zip(before[:2], value.shape[:2], strict=True):
        if known is not None and known != wanted:
            raise does_not_fit(step, f"an image of {value.shape[:2]} against images of {before[:2]}")
    return (value.shape[0], value.shape[1], before[2])


def _same_channels(step: Step, channels: int, before: Shape) -> None:
    if channels != before[2]:
        raise does_not_fit(step, f"{channels} channels against {before[2]}")


def _shown(value: Floats) -> str:
    if value.ndim == 1:
        shown = " ".join(f"{v:.6g}" for v in value[:8])
        return shown + (" …" if value.size > 8 else "")
    return f"an image {'×'.join(map(str, value.shape))} with mean {_shown(value.mean(axis=(0, 1)))}"
