"""How a weight is used: its fans, and which of its elements are one unit's incoming or one input's outgoing weights."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from firstlight.graph import Activation, Fan, Graph, fans
from firstlight.graph.vocabulary import PRODUCT, TRANSPOSED
from firstlight.initialization.schemes.covering import gain_of


@dataclass(frozen=True, slots=True)
class Usage:
    """What one weight does in a sum.

    Attributes:
        fan_in: numbers that one output sums.
        fan_out: outputs that one input reaches.
        gain: for the nonlinearity that follows; ``None`` where that is not known.
        activation: its name, for words; empty without one.
        groups: of a convolution.
        turned: the inputs are the first dimension, as in a transposed convolution and in ``x @ W``.
    """

    fan_in: float
    fan_out: float
    gain: float | None = None
    activation: str = ""
    groups: int = 1
    turned: bool = False

    def units(self, values: Tensor) -> Tensor:
        """``[units, …]``: the incoming weights of each unit."""
        return self._grid(values).flatten(0, 1).flatten(1)

    def inputs(self, values: Tensor) -> Tensor:
        """``[inputs, …]``: the outgoing weights of each input."""
        return self._grid(values).transpose(1, 2).flatten(0, 1).flatten(1)

    def _grid(self, values: Tensor) -> Tensor:
        """``[groups, outputs of a group, inputs of a group, taps]``."""
        grid = values.unflatten(0, (self.groups, -1)).flatten(3) if values.dim() > 2 else values[None, :, :, None]
        return grid.transpose(1, 2) if self.turned else grid


def from_graph(graph: Graph) -> dict[str, Usage]:
    """The usage of every weight of a sum, by name, as its first operation uses it; embeddings sum nothing."""
    found: dict[str, Usage] = {}
    for fan in fans(graph):
        if not fan.op.startswith("embedding"):
            found.setdefault(fan.parameter, _used(graph, fan))
    return found


def _used(graph: Graph, fan: Fan) -> Usage:
    node, after = graph[fan.node], fan.activation
    direct = fan.parameter in node.inputs  # a rearranged or computed weight is taken as rows of outputs
    return Usage(
        fan.fan_in, fan.fan_out, gain_of(fan)[0], after.function if isinstance(after, Activation) else "",
        int(node.arguments.get("groups", 1)) if direct else 1, direct and fan.op in TRANSPOSED | PRODUCT.keys(),
    )  # fmt: skip


def from_modules(model: nn.Module) -> dict[str, Usage]:
    """The same from the kinds of the modules that hold them, where there is no graph: which nonlinearity follows stays
    unknown, and a matrix that no known module holds is taken as outputs × inputs.
    """
    owners = {id(p): m for m in model.modules() for p in m.parameters(recurse=False)}
    return {
        name: _held(owners[id(parameter)], parameter)
        for name, parameter in model.named_parameters()
        if "weight" in name.rpartition(".")[2] and parameter.dim() > 1
        if not isinstance(owners[id(parameter)], nn.Embedding | nn.EmbeddingBag)
    }


def _held(owner: nn.Module, values: Tensor) -> Usage:
    taps = math.prod(values.shape[2:])
    if not isinstance(owner, nn.modules.conv._ConvNd):
        return Usage(values.shape[1] * taps, values.shape[0] * taps)
    stride, groups = math.prod(owner.stride), owner.groups
    one, all_ = values.shape[1] * taps, values.shape[0] / groups * taps / stride
    return Usage(all_, one, groups=groups, turned=True) if owner.transposed else Usage(one, all_, groups=groups)


def schemes(usage: Usage, values: Tensor) -> dict[str, float]:
    """Standard deviation that each scheme would give this weight, by the scheme's name.

    Where PyTorch's own rule of fans, which knows only shapes, differs from the operation's, its size stands beside.
    """
    gains = {"relu": math.sqrt(2)}
    if usage.gain is not None:
        gains = {usage.activation or "nothing": usage.gain} | (gains if usage.activation != "relu" else {})
    sizes = {
        "torch-default": 1 / math.sqrt(3 * values[0].numel()),
        "lecture-xavier": 1 / math.sqrt(usage.fan_in),
        "xavier": math.sqrt(2 / (usage.fan_in + usage.fan_out)),
    }
    for after, gain in gains.items():
        sizes[f"kaiming ({after})"] = gain / math.sqrt(usage.fan_in)
        sizes[f"kaiming-fan-out ({after})"] = gain / math.sqrt(usage.fan_out)
    fan_in, fan_out = nn.init._calculate_fan_in_and_fan_out(values)
    if fan_in != usage.fan_in:
        sizes["kaiming (relu), fan-in by shape"] = math.sqrt(2 / fan_in)
    if fan_out != usage.fan_out:
        sizes["kaiming-fan-out (relu), fan-out by shape"] = math.sqrt(2 / fan_out)
    if fan_in + fan_out != usage.fan_in + usage.fan_out:
        sizes["xavier, fans by shape"] = math.sqrt(2 / (fan_in + fan_out))
    return sizes | {"0.02": 0.02}


def repeated(rows: Tensor) -> int:
    """How many rows equal an earlier one, bit for bit, by a sum over their bits that equal rows share.

    Args:
        rows: ``[n, …]``, float64.
    """
    bits = (rows + 0.0).view(torch.int64)  # adding zero makes one zero of two
    bits = bits ^ (bits >> 32)  # float32 in float64 leaves the low half empty
    odd = torch.randint(-(2**62), 2**62, bits.shape[1:], generator=torch.Generator().manual_seed(0)) * 2 + 1
    return len(rows) - len(torch.unique((bits * odd.to(bits.device)).sum(1)))
