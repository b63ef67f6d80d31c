"""OpenVINO: mean, scale and order of channels inside the model, by its ``PrePostProcessor``."""

from typing import TYPE_CHECKING, Any

from firstlight._extras import require
from firstlight.recipe.export.common import listed, standardization

if TYPE_CHECKING:
    from firstlight.recipe.recipe import Recipe


def export(recipe: "Recipe", model: Any = None) -> Any:
    """An ``openvino.Model`` that takes raw pixels N×C×H×W.

    Args:
        recipe: what goes in front.
        model: an ``openvino.Model`` or the path of one (IR or ONNX) with one float32 input N×C×H×W; by default none,
            and the result is the preprocessing alone. An ``openvino.Model`` is changed in place, as its tool does.

    Raises:
        FirstlightError: slugs ``cannot-export`` and ``missing-extra``.
    """
    found = standardization(recipe, "openvino", orders=True)
    ov = require("openvino", extra="export")
    types = {"uint8": ov.Type.u8, "uint16": ov.Type.u16, "float": ov.Type.f32}
    if model is None:
        model = _identity(ov, recipe.input.channels)
    elif not isinstance(model, ov.Model):
        model = ov.Core().read_model(model)
    front = ov.preprocess.PrePostProcessor(model)
    front.input().tensor().set_element_type(types[recipe.input.kind]).set_layout(ov.Layout("NCHW"))
    front.input().model().set_layout(ov.Layout("NCHW"))
    steps = front.input().preprocess().convert_element_type(ov.Type.f32)
    if found.swapped:
        steps.reverse_channels()
    full = recipe.input.full_scale
    steps.mean(listed(found.mean * full)).scale(listed(found.std * full))
    return front.build()


def _identity(ov: Any, channels: int) -> Any:
    ops = require("openvino.opset13", extra="export")
    images = ops.parameter([-1, channels, -1, -1], ov.Type.f32, name="images")
    return ov.Model([ops.result(images)], [images], "firstlight recipe")
