"""What a network does with its input before anything is learned: does it normalize it, convert it, centre it?"""

from collections.abc import Iterator

from firstlight.diagnosis.case import Case
from firstlight.graph import Graph, Node
from firstlight.graph.vocabulary import CONVOLUTION, NORMALIZATION, SHAPE

_AFFINE = frozenset({"add", "sub", "mul", "div", "rsub"})
_RESIZING = frozenset({"upsample_nearest2d", "upsample_bilinear2d", "upsample_bicubic2d"})
_STANDARDIZING = NORMALIZATION - {"local_response_norm", "rms_norm"}


def normalizes_itself(case: Case) -> bool:
    """Whether the network standardizes what it gets before its first layer; False when it did not run.

    By a normalization, or by arithmetic with constants after which the measured second moment is within a factor of
    a hundred of one.
    """
    if case.measured is None:
        return False
    measured = {node.name: node for node in case.run.first.nodes}
    for node in _before_layers(case.graph):
        if node.function in _STANDARDIZING:
            return True
        seen = measured.get(node.name)
        if node.function in _AFFINE and seen is not None:
            second_moment = seen.forward_mean**2 + seen.forward_std**2
            if 1e-2 <= second_moment <= 1e2 and seen.forward_mean**2 <= seen.forward_std**2:
                return True
    return False


def first_layer(case: Case) -> Node | None:
    """The first layer with weights that the images meet; None when the network did not run."""
    if case.measured is None:
        return None
    return next((n for n in _before_layers(case.graph) if n.function in CONVOLUTION | {"linear", "addmm"}), None)


def centred_after_first_layer(case: Case) -> bool:
    """Whether batch normalization follows the first layer: it takes away any constant that the input adds."""
    first = first_layer(case)
    if first is None:
        return False
    waiting = [first.name]
    while waiting:
        for user in case.graph.users(waiting.pop()):
            if user.function == "batch_norm":
                return True
            if user.function in SHAPE:
                waiting.append(user.name)
    return False


def _before_layers(graph: Graph) -> Iterator[Node]:
    """Operations on the image as it came, up to and including the first of another kind on each way."""
    waiting = [node.name for node in graph.nodes if node.kind == "input" and node.shape is not None]
    seen = set(waiting)
    while waiting:
        for user in graph.users(waiting.pop(0)):
            if user.name in seen:
                continue
            seen.add(user.name)
            yield user
            if user.function in SHAPE | _RESIZING or (user.function in _AFFINE and _with_constants(graph, user)):
                waiting.append(user.name)


def _with_constants(graph: Graph, node: Node) -> bool:
    return sum(name in graph.signal for name in node.inputs) == 1 and not node.parameters
