"""From the result of a recipe back to pixels."""

import sys
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from firstlight.errors import FirstlightError
from firstlight.recipe.inputs import Input
from firstlight.recipe.steps import Shape, Step


@dataclass(frozen=True, eq=False)
class Inverse:
    """Undoes a recipe. Call it on what the recipe returned.

    Attributes:
        output: the images that come out, as the recipe took them.
        steps: what is done to the results, in order.
        expects: height, width and channels of a result; None where any size will do.
        lossless: False where the recipe dropped components: then the nearest image that can be had comes out.
    """

    output: Input
    steps: tuple[Step, ...]
    expects: Shape
    lossless: bool

    def __call__(self, results: Any, *, as_float: bool = False) -> Any:
        """Pixels from results.

        Args:
            results: NumPy H×W×K or N×H×W×K, or torch K×H×W or N×K×H×W, floats.
            as_float: give float32 in units of full scale, neither rounded nor clipped.

        Returns:
            Pixels of the recipe's own kind: uint8 or uint16, rounded to the nearest and clipped, or float32.

        Raises:
            FirstlightError: slug ``wrong-shape``, when these are not such results.
        """
        torch = sys.modules.get("torch")
        if torch is not None and isinstance(results, torch.Tensor):
            array = np.moveaxis(results.detach().cpu().double().numpy(), -3, -1) if results.ndim >= 3 else None
            if array is None:
                raise self._wrong(tuple(results.shape), "K×H×W")
            pixels = np.ascontiguousarray(np.moveaxis(self._undo(array, as_float), -1, -3))
            return torch.from_numpy(pixels).to(results.device)
        return self._undo(np.asarray(results, np.float64), as_float)

    def _undo(self, array: NDArray[np.float64], as_float: bool) -> NDArray[Any]:
        if array.ndim not in (3, 4) or any(
            wanted is not None and given != wanted for given, wanted in zip(array.shape[-3:], self.expects, strict=True)
        ):
            raise self._wrong(array.shape, "H×W×K")
        batch = array if array.ndim == 4 else array[None]
        for step in self.steps:
            batch = step.apply(batch)
        pixels = batch if array.ndim == 4 else batch[0]
        if as_float or self.output.kind == "float":
            return pixels.astype(np.float32)
        full = self.output.full_scale
        return np.clip(np.rint(pixels * full), 0, full).astype(self.output.kind)

    def _wrong(self, shape: tuple[int, ...], layout: str) -> FirstlightError:
        wanted = "×".join("any" if side is None else str(side) for side in self.expects)
        return FirstlightError(
            f"shape {shape} is no result of this recipe, whose results are {wanted} (H×W×K)",
            f"give what the recipe returned: {layout}, or a batch of these",
            slug="wrong-shape",
            call="recipe.inverse()(results)",
        )
