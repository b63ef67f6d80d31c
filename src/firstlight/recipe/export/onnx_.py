"""ONNX: every step as standard operators, alone or in front of a network; raw pixels in."""

import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from firstlight._extras import require
from firstlight.recipe.apply import fuse
from firstlight.recipe.export.common import refused
from firstlight.recipe.linear import Components, Patches, Pixels
from firstlight.recipe.steps import Channels, Divide, Reorder, Step, Subtract

if TYPE_CHECKING:
    from firstlight.recipe.recipe import Recipe

OPSET = 18
"""Of the operators used; a model behind the recipe keeps its own where it is newer."""


def export(recipe: "Recipe", model: Any = None, path: str | os.PathLike[str] | None = None) -> Any:
    """An ``onnx.ModelProto`` whose input ``images`` is N×C×H×W in the declared kind.

    Args:
        recipe: what the model computes.
        model: an ``onnx.ModelProto`` or its path, with one float32 input N×C×H×W, to put behind it.
        path: also write the file here.

    Raises:
        FirstlightError: slugs ``cannot-export`` (a model with several inputs) and ``missing-extra``.
    """
    onnx = require("onnx", extra="export")
    opset, version = OPSET, 8
    if model is not None:
        model = model if isinstance(model, onnx.ModelProto) else onnx.load(os.fspath(model))
        names = {weight.name for weight in model.graph.initializer}
        inputs = [value for value in model.graph.input if value.name not in names]
        if len(inputs) != 1:
            raise refused("onnx", f"puts a recipe in front of one input, and this model has {len(inputs)}")
        opset = max([OPSET, *(entry.version for entry in model.opset_import if entry.domain == "")])
        version = max(version, model.ir_version)
    front = _front(onnx, recipe, opset, version)
    if model is not None:
        front = _joined(onnx, front, model, inputs[0].name, opset)
    onnx.checker.check_model(front)
    if path is not None:
        onnx.save(front, os.fspath(path))
    return front


def _joined(onnx: Any, front: Any, model: Any, name: str, opset: int) -> Any:
    """The recipe's graph and the network's, one behind the other, names kept apart by a prefix."""
    model = onnx.version_converter.convert_version(model, opset) if _opset(model) < opset else model
    prefixed = onnx.compose.add_prefix(front, "recipe/", rename_inputs=False)
    model.ir_version = front.ir_version
    return onnx.compose.merge_models(prefixed, model, io_map=[("recipe/prepared", name)])


def _opset(model: Any) -> int:
    return max((entry.version for entry in model.opset_import if entry.domain == ""), default=0)


@dataclass
class _Graph:
    """Nodes and constants as they are added, one value flowing through."""

    onnx: Any
    value: str = "images"
    nodes: list[Any] = field(default_factory=list)
    constants: list[Any] = field(default_factory=list)

    def constant(self, value: NDArray[Any]) -> str:
        name = f"constant_{len(self.constants)}"
        self.constants.append(self.onnx.numpy_helper.from_array(np.ascontiguousarray(value), name))
        return name

    def add(self, operator: str, *others: str, **attributes: Any) -> str:
        """Apply an operator to the current value and others; its result is the next value."""
        name = f"value_{len(self.nodes)}"
        self.nodes.append(self.onnx.helper.make_node(operator, [self.value, *others], [name], **attributes))
        self.value = name
        return name

    def floats(self, value: NDArray[Any]) -> str:
        return self.constant(np.asarray(value, np.float32))


def _front(onnx: Any, recipe: "Recipe", opset: int, ir_version: int) -> Any:
    kinds = onnx.TensorProto
    element = {"uint8": kinds.UINT8, "uint16": kinds.UINT16, "float": kinds.FLOAT}[recipe.input.kind]
    graph = _Graph(onnx)
    if recipe.input.kind != "float":
        graph.add("Cast", to=kinds.FLOAT)
    count = 0
    while count < len(recipe.steps) and isinstance(recipe.steps[count], Subtract | Divide):
        count += 1
    affine = fuse(recipe.steps[:count], recipe.input.channels)
    assert affine is not None, "subtracting and dividing is affine"
    full = recipe.input.full_scale
    graph.add("Sub", graph.floats(_planes(-affine.shift / affine.factor * full)))
    graph.add("Mul", graph.floats(_planes(affine.factor / full)))
    for step in recipe.steps[count:]:
        _add_step(graph, step)
    graph.nodes.append(onnx.helper.make_node("Identity", [graph.value], ["prepared"]))
    height, width, channels = recipe.output_shape
    sides = recipe.size or (None, None)
    model = onnx.helper.make_model(
        onnx.helper.make_graph(
            graph.nodes,
            "firstlight recipe",
            [_tensor(onnx, "images", element, recipe.input.channels, *sides)],
            [_tensor(onnx, "prepared", kinds.FLOAT, channels, height, width)],
            graph.constants,
        ),
        opset_imports=[onnx.helper.make_opsetid("", opset)],
        producer_name="firstlight",
    )
    model.ir_version = ir_version
    return model


def _tensor(onnx: Any, name: str, element: int, channels: int, height: int | None, width: int | None) -> Any:
    return onnx.helper.make_tensor_value_info(name, element, ["N", channels, height or "H", width or "W"])


def _add_step(graph: _Graph, step: Step) -> None:
    if isinstance(step, Subtract):
        graph.add("Sub", graph.floats(_planes(step.value)))
    elif isinstance(step, Divide):
        graph.add("Div", graph.floats(_planes(step.value)))
    elif isinstance(step, Reorder):
        graph.add("Gather", graph.constant(np.array(step.order, np.int64)), axis=1)
    elif isinstance(step, Channels):
        graph.add("Conv", graph.floats(step.matrix[:, :, None, None]))
    elif isinstance(step, Patches):
        top, bottom, left, right = step.pads
        graph.add("Pad", graph.constant(np.array([0, 0, top, left, 0, 0, bottom, right], np.int64)), mode="reflect")
        graph.add("Conv", graph.floats(np.moveaxis(step.filters, -1, 1)), graph.floats(step.shift))
    elif isinstance(step, Components):
        graph.add("Flatten", axis=1)
        graph.add("MatMul", graph.floats(_channels_first(step) * step.factor))
        graph.add("Reshape", graph.constant(np.array([-1, step.vectors.shape[1], 1, 1], np.int64)))
    elif isinstance(step, Pixels):
        _add_pixels(graph, step)
    else:
        raise refused("onnx", f"has no form of the step {step.name!r}")


def _add_pixels(graph: _Graph, step: Pixels) -> None:
    height, width, channels = step.image
    vectors = _channels_first(step)
    flat = graph.add("Flatten", axis=1)
    graph.add("MatMul", graph.floats(vectors * (step.factor - step.rest)))
    mapped = graph.add("MatMul", graph.floats(vectors.T))
    graph.value = flat
    graph.add("Mul", graph.floats(np.array(step.rest)))
    graph.add("Add", mapped)
    graph.add("Reshape", graph.constant(np.array([-1, channels, height, width], np.int64)))


def _channels_first(step: Components | Pixels) -> NDArray[Any]:
    rank = step.vectors.shape[1]
    return np.moveaxis(step.vectors.reshape(*step.image, rank), 2, 0).reshape(-1, rank)


def _planes(value: NDArray[Any]) -> NDArray[Any]:
    return np.moveaxis(value, -1, 0).reshape(value.shape[-1], *(value.shape[:-1] or (1, 1)))
