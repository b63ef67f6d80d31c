"""`Recipe`: what is done to the pixels before the first layer, as one frozen value."""

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from firstlight.errors import FirstlightError
from firstlight.recipe import apply, files, presets, whitening
from firstlight.recipe.inputs import Input, fitted_on, value_range
from firstlight.recipe.inverse import Inverse
from firstlight.recipe.steps import Shape, Step, step_from_dict
from firstlight.statistics.sketch import LowRank
from firstlight.statistics.vectors import Vectors

if TYPE_CHECKING:
    from torch import Tensor, nn

    from firstlight.statistics import Statistics


@dataclass(frozen=True, eq=False)
class Recipe:
    """A frozen list of steps for images of one declared kind.

    Call it on images: NumPy H×W×C or N×H×W×C, torch C×H×W or N×C×H×W. Integers mean value / full scale, floats are
    in units of full scale already (0…1), or, where floats were scanned, in their own units. The result is float32
    in the same layout, the float64 result of the steps rounded once.

    Attributes:
        name: which preset it is ("resnet", "zca over channels", …).
        input: the images it accepts.
        steps: what is done to them, in order; constants in units of full scale.
        fitted_on: where the constants come from, for people.

    Example:
        >>> import numpy as np, firstlight as fl
        >>> images = np.array([[[[0, 0, 0]]], [[[255, 51, 102]]]], dtype=np.uint8)
        >>> recipe = fl.Recipe.resnet(fl.scan(images))
        >>> recipe(images)[:, 0, 0]
        array([[-1., -1., -1.],
               [ 1.,  1.,  1.]], dtype=float32)
    """

    name: str
    input: Input
    steps: tuple[Step, ...]
    fitted_on: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "steps", tuple(self.steps))
        _ = self.output_shape  # raises where the steps do not fit together

    # ---- presets ----------------------------------------------------------------------------------------

    @classmethod
    def alexnet(cls, stats: "Statistics") -> "Recipe":
        """Subtract the mean image, H×W×C.

        Raises:
            FirstlightError: slug ``no-mean-image``, when the images differ in size.
        """
        return cls._of("alexnet", stats, presets.alexnet(stats))

    @classmethod
    def vgg(cls, stats: "Statistics") -> "Recipe":
        """Subtract the mean of every channel."""
        return cls._of("vgg", stats, presets.vgg(stats))

    @classmethod
    def resnet(cls, stats: "Statistics", *, std: str = "pooled") -> "Recipe":
        """Subtract the mean and divide by the std of every channel.

        Args:
            stats: of the training images.
            std: "pooled", of all pixels: the result has variance 1; or "per-image", the mean over images of their
                own std, as the common 0.229 0.224 0.225: the result has a larger variance.

        Raises:
            FirstlightError: slugs ``bad-std`` and ``constant-channel``.
        """
        return cls._of("resnet", stats, presets.resnet(stats, std))

    @classmethod
    def scale(cls, stats: "Statistics", *, to: tuple[float, float] = (0.0, 1.0)) -> "Recipe":
        """Map the range of the pixels (integers: what they can store; floats: what was seen) to `to`.

        Raises:
            FirstlightError: slug ``bad-range``.
        """
        return cls._of(f"scale to [{to[0]:g}, {to[1]:g}]", stats, presets.scale(stats, to))

    @classmethod
    def pca(
        cls,
        stats: "Statistics | Vectors | LowRank",
        *,
        over: str | None = None,
        whiten: bool = False,
        components: int | None = None,
        variance: float | None = None,
        epsilon: float | None = None,
    ) -> "Recipe":
        """Decorrelate: rotate to the principal axes, largest variance first; divide by √(λ+ε·λ̄) if `whiten`.

        Args:
            stats: what `scan` returns (over the channels of a pixel) or `fit` does (over patches or whole images).
            over: "channels", "patches" or "pixels"; `stats` decide it, so this only has to agree with them.
            whiten: also give every component variance 1 (within λ/(λ+ε·λ̄)).
            components: keep this many.
            variance: keep as few as hold this share of the variance, 0…1.
            epsilon: relative to the mean eigenvalue λ̄; by default `whitening.EPSILON`.

        Raises:
            FirstlightError: slugs ``other-statistics``, ``bad-components``, ``bad-epsilon`` and
                ``singular-covariance``.
        """
        steps = whitening.pca(
            stats, over=over, whiten=whiten, components=components, variance=variance, epsilon=epsilon
        )
        return cls._of(f"pca{' whitening' if whiten else ''} over {whitening.domain(stats, over)}", stats, steps)

    @classmethod
    def zca(
        cls, stats: "Statistics | Vectors | LowRank", *, over: str | None = None, epsilon: float | None = None
    ) -> "Recipe":
        """Whiten and rotate back, so that the result stays as near to the image as a whitening can.

        Args:
            stats: as in `pca`.
            over: as in `pca`.
            epsilon: relative to the mean eigenvalue λ̄; by default `whitening.EPSILON`.

        Raises:
            FirstlightError: slugs ``other-statistics``, ``bad-epsilon`` and ``singular-covariance``.
        """
        steps = whitening.zca(stats, over=over, epsilon=epsilon)
        return cls._of(f"zca over {whitening.domain(stats, over)}", stats, steps)

    @classmethod
    def _of(cls, name: str, stats: "Statistics | Vectors | LowRank", steps: Sequence[Step]) -> "Recipe":
        return cls(name, Input.of(stats), tuple(steps), fitted_on(stats))

    # ---- what it does -----------------------------------------------------------------------------------

    def __call__(self, images: Any) -> Any:
        """Preprocess images.

        Args:
            images: NumPy H×W×C or N×H×W×C, or torch C×H×W or N×C×H×W; uint8, uint16 or floats.

        Returns:
            float32, an array or a tensor as given, in the same layout, on the same device.

        Raises:
            FirstlightError: slugs ``wrong-channels``, ``wrong-layout``, ``wrong-shape``, ``wrong-size``,
                ``wrong-dtype`` and ``wrong-range``.

        Warns:
            SuspiciousInput: where the range is possible but strange.
        """
        torch = sys.modules.get("torch")
        if torch is not None and isinstance(images, torch.Tensor):
            from firstlight.recipe.tensors import apply_tensor

            return apply_tensor(self, images)
        array = np.asarray(images)
        scale = self.input.scale_of(str(array.dtype))
        self.input.check_channels(array.shape, -1, "H×W×C", -3)
        self.check_size(array.shape[-3:-1])
        self.input.check_range(*value_range(array), integers=scale != 1 or array.dtype.kind == "u")
        batch = array if array.ndim == 4 else array[None]
        result = apply.apply_array(self.steps, batch, scale)
        return result if array.ndim == 4 else result[0]

    def check_size(self, size: tuple[int, ...]) -> None:
        """Whether images of this height and width fit a recipe that has one size.

        Raises:
            FirstlightError: slug ``wrong-size``.
        """
        wanted = self.size
        if wanted is not None and tuple(size) != wanted:
            raise FirstlightError(
                f"images of {size[0]}×{size[1]} given, {wanted[0]}×{wanted[1]} declared",
                f"resize or crop them as the scanned images were ({self.input.transform or 'unknown'})",
                slug="wrong-size",
                call="recipe(images)",
            )

    def inverse(self) -> Inverse:
        """A callable that turns results back into pixels.

        Raises:
            FirstlightError: slug ``no-inverse``, for a step that nothing can undo.
        """
        back = tuple(step.inverse() for step in reversed(self.steps))
        return Inverse(self.input, back, self.output_shape, all(step.lossless for step in self.steps))

    def module(self) -> "nn.Module":
        """The recipe as an ``nn.Module`` on N×C×H×W or C×H×W: buffers only; exports, compiles and moves to any device.

        It computes in the type of its buffers (float32) and checks shapes only.
        """
        from firstlight.recipe.module import RecipeModule

        return RecipeModule(self)

    def transform(self) -> "nn.Module":
        """The recipe as a transform of single images: for torchvision's v2 ``Compose`` and a dataset's ``transform=``.

        It takes Pillow images, NumPy H×W×C, tensors C×H×W and torchvision's ``Image``, with every check that the
        recipe itself makes, and returns float32 C×H×W. Bounding boxes and masks of a v2 sample pass unchanged.
        """
        from firstlight.recipe.transform import RecipeTransform

        return RecipeTransform(self)

    def fold(self, layer: "nn.Module") -> "nn.Module":
        """The first layer of a network with this recipe inside.

        Args:
            layer: ``nn.Conv2d`` (any padding, stride, dilation and groups) or ``nn.Linear`` on flattened C×H×W.

        Returns:
            A layer that takes raw pixels, N×C×H×W or flattened, in the declared kind's own units (0…255 for uint8),
            as integers or floats, and gives the same output, at the borders too.

        Raises:
            FirstlightError: slug ``cannot-fold``, where that cannot be exact.
        """
        from firstlight.recipe.fold import fold

        return fold(self, layer)

    def fold_into(self, model: "nn.Module", images: "Tensor") -> "nn.Module":
        """A copy of a network that takes raw pixels; the given one is left as it is.

        The layer is found in the network's graph, and both networks are compared on `images` in eval mode.

        Args:
            model: a network whose input goes into one convolution or linear layer.
            images: raw N×C×H×W, integers.

        Raises:
            FirstlightError: slug ``cannot-fold``, or ``fold-not-equal`` when the outputs differ by more than rounding.
        """
        from firstlight.recipe.fold import fold_into

        return fold_into(self, model, images)

    def accepting(self, kind: str) -> "Recipe":
        """The same recipe for pixels stored otherwise, full scale meaning the same: 255 of uint8 is 65535 of uint16.

        Args:
            kind: "uint8" or "uint16".

        Raises:
            FirstlightError: slug ``bad-kind``, where either side is float, whose full scale nobody knows.
        """
        if "float" in (kind, self.input.kind):
            raise FirstlightError(
                "floats have no full scale that integers could be compared with",
                "give a recipe for integers floats in 0…1; for others, scan the images themselves",
                slug="bad-kind",
                call=f"recipe.accepting({kind!r})",
            )
        return replace(self, input=replace(self.input, kind=kind))

    def then(self, *steps: Step) -> "Recipe":
        """A longer recipe.

        Raises:
            FirstlightError: slug ``step-does-not-fit``.
        """
        return replace(self, steps=(*self.steps, *steps))

    @property
    def size(self) -> tuple[int, int] | None:
        """Height and width that the steps demand; None when any will do."""
        for step in self.steps:
            value = getattr(step, "value", None)
            if value is not None and value.ndim == 3:
                return (value.shape[0], value.shape[1])
            demanded = getattr(step, "image", None)
            if demanded is not None:
                return (demanded[0], demanded[1])
        return None

    @property
    def output_shape(self) -> Shape:
        """Height, width and channels of a result; None where the input decides."""
        height, width = self.size or (None, None)
        shape: Shape = (height, width, self.input.channels)
        for step in self.steps:
            shape = step.shape(shape)
        return shape

    # ---- files and text ---------------------------------------------------------------------------------

    def __str__(self) -> str:
        lines = [f"Recipe {self.name}", f"  takes {self.input}"]
        lines += [f"  {number}. {step}" for number, step in enumerate(self.steps, 1)]
        if not self.steps:
            lines.append("  nothing more: values in units of full scale")
        if self.fitted_on:
            lines.append(f"  fitted on {self.fitted_on}")
        return "\n".join(lines)

    def __repr__(self) -> str:
        return f"<{self}>"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Recipe) and self.to_json() == other.to_json()

    def __hash__(self) -> int:
        return hash((self.name, self.input, len(self.steps)))

    def to_dict(self) -> dict[str, Any]:
        """The recipe as plain values and arrays."""
        steps = [step.to_dict() for step in self.steps]
        return {"name": self.name, "input": self.input.to_dict(), "fitted_on": self.fitted_on, "steps": steps}

    def to_json(self) -> str:
        """The text of the recipe's file."""
        return files.dumps(self.to_dict())

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write one JSON file. Equal recipes give equal bytes.

        Raises:
            FirstlightError: slug ``cannot-write``.
        """
        files.save(self.to_dict(), path)

    def export(self, target: str, **options: Any) -> Any:
        """The recipe in the form that another tool reads, or a refusal: nothing is ever approximated.

        Args:
            target: "hf" (dict), "timm" (dict), "torchvision" (transform), "keras" (layer), "mmengine" (dict),
                "albumentations" (transform), "onnx" (model; ``model=``, ``path=``), "openvino" (model; ``model=``) or
                "json" (dict).
            options: of the target.

        Raises:
            FirstlightError: slugs ``unknown-target``, ``cannot-export`` and ``missing-extra``.
        """
        from firstlight.recipe.export import export

        return export(self, target, **options)

    @classmethod
    def load(cls, source: Any) -> "Recipe":
        """Read a recipe.

        Args:
            source: path of a file that `save` wrote, of a Hugging Face ``preprocessor_config.json`` or of a timm
                ``config.json``; the content of one of the last two as a dict; or a torchvision transform.

        Raises:
            FirstlightError: slugs ``no-such-file``, ``not-a-recipe`` and ``newer-format``.
        """
        from firstlight.recipe import imports

        if isinstance(source, Mapping):
            return cls(*imports.from_config(source), "a configuration that was given")
        if not isinstance(source, str | os.PathLike):
            return cls(*imports.from_torchvision(source), "a torchvision transform")
        path = source
        value = files.read_json(path, "a file that Recipe.save wrote")
        if isinstance(value, dict) and "format" not in value:
            return cls(*imports.from_config(value), f"the file {os.path.basename(path)}")
        given = value.get("format") if isinstance(value, dict) else None
        if isinstance(given, str) and given.startswith("firstlight.recipe/") and given != files.FORMAT:
            raise FirstlightError(
                f"{str(path)!r} has the format {given}, this firstlight reads {files.FORMAT}",
                "upgrade firstlight",
                slug="newer-format",
            )
        try:
            if given != files.FORMAT:
                raise ValueError(f"its format is {given!r}")
            return cls.from_dict(files.decoded(value))
        except (KeyError, TypeError, ValueError) as error:
            raise FirstlightError(
                f"{str(path)!r} is not a recipe ({error})", "name a file that Recipe.save wrote", slug="not-a-recipe"
            ) from None

    @classmethod
    def from_dict(cls, value: dict[str, Any]) -> "Recipe":
        """The inverse of `to_dict`."""
        known = {field.name: value["input"][field.name] for field in fields(Input)}
        steps = tuple(step_from_dict(step) for step in value["steps"])
        return cls(value["name"], Input(**known), steps, value["fitted_on"])
