"""Which axis of a result holds its channels, as the operations hand it on."""

from torch import Tensor

from firstlight.graph import Node
from firstlight.graph.vocabulary import CONVOLUTION, TRANSPOSED

_SECOND = CONVOLUTION | TRANSPOSED | {"batch_norm", "group_norm", "instance_norm"}
_LAST = frozenset({"linear", "addmm", "layer_norm", "rms_norm"})


class Axes:
    """Follows the axis of channels through one run."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[int, int, int]] = {}  # name -> axis, number of axes, number of channels

    def of(self, node: Node, tensor: Tensor) -> int:
        """Axis of the channels of `node`'s result: 1 after convolutions, the last one after linear layers.

        Other operations keep the axis of their first argument, and where they change the number of axes the one axis
        that is as long; where that does not say, images of four or five axes have their channels second and everything
        else last.
        """
        axes = tensor.dim()
        before = next((self._known[name] for name in node.inputs if name in self._known), None)
        if node.function in _SECOND:
            axis = min(1, axes - 1)
        elif node.function in _LAST:
            axis = axes - 1
        elif before is not None and before[1] == axes:
            axis = _moved(node, before[0], axes)
        else:
            as_long = [place for place in range(1, axes) if before is not None and tensor.shape[place] == before[2]]
            axis = as_long[0] if len(as_long) == 1 else 1 if axes in (4, 5) else axes - 1
        self._known[node.name] = axis, axes, tensor.shape[axis] if axes else 1
        return axis


def _moved(node: Node, axis: int, axes: int) -> int:
    if node.function == "permute":
        return [place % axes for place in node.arguments["dims"]].index(axis)
    if node.function in ("transpose", "swapaxes", "swapdims"):
        one, other = (place % axes for place in node.arguments.values())
        return {one: other, other: one}.get(axis, axis)
    if node.function == "mT":
        return {axes - 1: axes - 2, axes - 2: axes - 1}.get(axis, axis)
    return axis
