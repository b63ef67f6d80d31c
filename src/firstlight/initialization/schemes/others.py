"""Rules for the parameters that are no weights of a sum: biases, norms, embeddings, positions, scales.

They are the same in every scheme that keeps the size of the signal, and follow from how the parameter takes effect.
"""

import math

from firstlight.graph import Graph, Node
from firstlight.graph.vocabulary import CONVOLUTION, JOIN, NORMALIZATION, REARRANGEMENT, RECURRENT, TRANSPOSED
from firstlight.graph.walk import uses
from firstlight.initialization.plan import Decision

EMBEDDING_STD = 0.02
LAYER_SCALE = 1e-5
TEMPERATURE = 10.0

_WITH_BIAS = CONVOLUTION | TRANSPOSED | {"linear", "addmm", "baddbmm", "bilinear"}


def decide(graph: Graph, parameter: Node, weight_std: dict[str, float]) -> Decision | None:
    """The decision for one parameter that is not the weight of a sum, or ``None`` when no rule covers it.

    Args:
        graph: the network.
        parameter: one of its parameter nodes.
        weight_std: standard deviation decided for each weight, by name; a weight norm's magnitude follows from it.
    """
    for node, role, path in uses(graph, parameter.name):
        found = (
            _direction_and_size(graph, parameter, node, role, weight_std)
            or _bias(parameter, node, role)
            or _norm(parameter, node, role)
            or _slope(parameter, node, role)
            or _gate(parameter, node)
            or _read(parameter, node, role)
            or _joined(graph, parameter, node, path)
            or _scale(graph, parameter, node)
            or _temperature(graph, parameter, node)
        )
        if found is not None:
            return found
    return None


def constant(name: str, rule: str, value: float, reason: str) -> Decision:
    """A decision to start every element at `value`."""
    return Decision(name, rule, "constant", value, 0.0, None, None, None, reason)


def normal(name: str, rule: str, std: float, reason: str) -> Decision:
    """A decision to draw from a normal distribution around zero, without a fan."""
    return Decision(name, rule, "normal", 0.0, std, None, None, None, reason)


def _direction_and_size(
    graph: Graph, parameter: Node, node: Node, role: str, weight_std: dict[str, float]
) -> Decision | None:
    if node.function != "_weight_norm" or role != "g":
        return None
    direction = graph[node.inputs[node.roles.index("v")]]
    if direction.name not in weight_std:
        return None
    # w = g v/|v|. Where |v| spans n elements of standard deviation s, E|v|^2 = n s^2: this g makes w as large as v.
    elements = math.prod(direction.shape or ()) / math.prod(parameter.shape or ())
    value = weight_std[direction.name] * math.sqrt(elements)
    return constant(
        parameter.name,
        "weight-norm",
        value,
        f"magnitude at which the normalized weight keeps the size of {direction.name}",
    )


def _bias(parameter: Node, node: Node, role: str) -> Decision | None:
    is_bias = (node.function in _WITH_BIAS and role in ("bias", "self")) or (
        node.function in RECURRENT and role == "params" and len(parameter.shape or ()) == 1
    )
    return constant(parameter.name, "bias", 0.0, f"bias of {node.function}: zero") if is_bias else None


def _norm(parameter: Node, node: Node, role: str) -> Decision | None:
    if node.function not in NORMALIZATION or role not in ("weight", "bias"):
        return None
    value = 1.0 if role == "weight" else 0.0
    return constant(
        parameter.name, "norm", value, f"{role} of {node.function}: {value:g}, it starts as pure normalization"
    )


def _slope(parameter: Node, node: Node, role: str) -> Decision | None:
    if node.function != "prelu" or role != "weight":
        return None
    return constant(parameter.name, "slope", 0.25, "slope of prelu: 0.25, as in He et al. (2015)")


def _gate(parameter: Node, node: Node) -> Decision | None:
    """A gate or a share that depends on no input: half open, or equal shares."""
    if node.function not in ("sigmoid", "hardsigmoid", "softmax", "tanh"):
        return None
    start = "equal shares" if node.function == "softmax" else "the middle of what it can be"
    return constant(parameter.name, "gate", 0.0, f"argument of a {node.function}: zero, {start}")


def _read(parameter: Node, node: Node, role: str) -> Decision | None:
    """Tokens that no image has a part in, such as the query that pools by attention.

    The layer that reads them has weights for a second moment of one, which a signal behind a norm has.
    """
    if role != "input" or node.function not in _WITH_BIAS | NORMALIZATION:
        return None
    return normal(parameter.name, "latent", 1.0, f"learned tokens that a {node.function} reads: std 1, as a signal has")


def _joined(graph: Graph, parameter: Node, node: Node, path: tuple[Node, ...]) -> Decision | None:
    """Parameters that are added to the signal, or stand in it as tokens of their own."""
    if node.function not in JOIN | {"where", "scaled_dot_product_attention"}:
        return None
    shape = [size for size in parameter.shape or () if size > 1]
    looked_up = any(step.function in ("index", "index_select", "gather") for step in path)
    if node.function in ("add", "sub", "rsub") and len(shape) <= 1 and not looked_up:
        return constant(parameter.name, "bias", 0.0, "added to every position alike, so it is a bias: zero")
    if node.function in ("cat", "stack", "concat", "where"):
        return normal(
            parameter.name, "token", EMBEDDING_STD, f"learned token beside the signal: std {EMBEDDING_STD}, as in ViT"
        )
    return normal(
        parameter.name,
        "position",
        EMBEDDING_STD,
        f"learned position added to the signal: std {EMBEDDING_STD}, as in ViT",
    )


def _scale(graph: Graph, parameter: Node, node: Node) -> Decision | None:
    """Factors: small where they scale a residual branch (Touvron et al. 2021, LayerScale), one elsewhere."""
    if node.function not in ("mul", "addcmul"):
        return None
    if _ends_branch(graph, node):
        return constant(
            parameter.name,
            "layer-scale",
            LAYER_SCALE,
            f"scales a residual branch: {LAYER_SCALE:g}, as LayerScale starts",
        )
    return constant(parameter.name, "scale", 1.0, "scales the signal: one, it starts as the identity")


def _temperature(graph: Graph, parameter: Node, node: Node) -> Decision | None:
    """The logarithm of what multiplies logits: cosines between -1 and 1 make a softmax choose only when they grow."""
    steps, value = [], node
    while value.function in ("clamp", "clamp_min", "clamp_max", "exp") and len(graph.users(value.name)) == 1:
        steps.append(value.function)
        value = graph.users(value.name)[0]
    if "exp" not in steps or value.function != "mul" or not _meets_softmax(graph, value):
        return None
    return constant(
        parameter.name, "temperature", math.log(TEMPERATURE),
        f"its exponential multiplies the logits of a softmax: {TEMPERATURE:g}, as in Swin V2 (Liu et al. 2022)",
    )  # fmt: skip


def _meets_softmax(graph: Graph, logits: Node) -> bool:
    """Whether only sums and rearrangements lie between these and a softmax."""
    value = logits
    while len(users := graph.users(value.name)) == 1:
        value = users[0]
        if value.function == "softmax":
            return True
        if value.function not in REARRANGEMENT | {"add", "masked_fill"}:
            return False
    return False


def _ends_branch(graph: Graph, product: Node) -> bool:
    """Whether the product goes straight into a sum with another part of the signal, and is not the way past it.

    In ``f(x) + d·x`` (the D of a state space model) the product scales what the other summand is computed from.
    """
    value = product
    while True:
        users = graph.users(value.name)
        if len(users) != 1:
            return False
        if users[0].function == "add":
            read = users[0].inputs
            beside = [name for name in read if name != value.name and name in graph.signal]
            scaled = {name for name in product.inputs if name in graph.signal}
            return len(read) == 2 and len(beside) == 1 and not _computed_from(graph, beside[0], scaled)
        if users[0].function not in ("permute", "transpose", "reshape", "view", "dropout", "mul", "div"):
            return False
        value = users[0]


def _computed_from(graph: Graph, name: str, sources: set[str]) -> bool:
    waiting, seen = [name], {name}
    while waiting:
        before = [source for source in graph[waiting.pop()].inputs if source in graph.signal and source not in seen]
        if not sources.isdisjoint(before):
            return True
        seen.update(before)
        waiting += before
    return False
