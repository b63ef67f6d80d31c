"""What a few evenly spaced elements say of a tensor: its magnitudes on a log axis, and how its units differ."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from firstlight.graph import Node
from firstlight.graph.vocabulary import ACTIVATION, CONVOLUTION, TRANSPOSED
from firstlight.probe.measurements import LogHistogram, Units

ELEMENTS = 4096  # of a tensor, for its histogram
_ROWS, _SAMPLES = 128, 16  # positions of how many samples, for the units
_BINS, _LOWEST = 36, -12.0  # half decades from 1e-12 to 1e6

_CHANNELS_SECOND = CONVOLUTION | TRANSPOSED | {"batch_norm", "group_norm", "instance_norm"}
_CHANNELS_LAST = frozenset({"linear", "addmm", "layer_norm", "rms_norm"})
_LAYERS = CONVOLUTION | TRANSPOSED | {"linear", "addmm"}

# A unit is dead where these are exactly zero, and nothing but zero, for they are flat there.
_DIES = frozenset(
    {"relu", "relu6", "threshold", "clamp_min", "hardswish", "hardsigmoid", "gelu", "silu", "mish", "softshrink",
     "hardshrink"}
)  # fmt: skip
# Magnitude from which the slope is below 1e-3 of the largest one: 1 - y² for tanh, 4y(1 - y) for sigmoid.
_FLAT_TANH, _FLAT_SIGMOID = math.sqrt(1 - 1e-3), math.sqrt(1 - 1e-3) / 2


@torch.no_grad()
def evenly(tensor: Tensor, count: int = ELEMENTS) -> Tensor:
    """At most `count` elements, evenly spaced in memory, as float32; all of them where there are no more."""
    flat = _in_memory(tensor.detach())
    elements = flat.numel()
    if elements > count:
        step = -(-elements // count)
        # A step that shares no factor with the size meets every channel and every position as often.
        while math.gcd(step, elements) > 1:
            step += 1
        flat = flat[::step]
    # A copy: what comes next may overwrite the tensor, and a view would keep all of it in memory.
    return flat.to(torch.float32, copy=True)


def _in_memory(tensor: Tensor) -> Tensor:
    """All elements in a row; in the order of the memory where that saves a copy."""
    if tensor.layout != torch.strided:
        tensor = tensor.to_dense()
    order = sorted(range(tensor.dim()), key=tensor.stride, reverse=True)
    return tensor.permute(order).reshape(-1)


def histograms(samples: list[Tensor]) -> list[LogHistogram]:
    """One histogram for each tensor of values; one transfer for all."""
    if not samples:
        return []
    device, lengths = samples[0].device, [len(values) for values in samples]
    values = torch.cat([part.to(device) for part in samples])
    owner = torch.repeat_interleave(torch.arange(len(samples), device=device), torch.tensor(lengths, device=device))
    half_decades = ((values.abs().log10() - _LOWEST) * 2).nan_to_num(_BINS - 1, _BINS - 1, 0).floor()
    bins = half_decades.clamp(0, _BINS - 1).long()
    shown = torch.isfinite(values) & (values != 0)
    tallies = [
        torch.bincount((owner * _BINS + bins)[shown], minlength=len(samples) * _BINS).view(-1, _BINS),
        torch.bincount(owner[shown & (values < 0)], minlength=len(samples))[:, None],
        torch.bincount(owner[values == 0], minlength=len(samples))[:, None],
    ]
    return [LogHistogram(tuple(row[:-2]), row[-2], row[-1]) for row in torch.cat(tallies, 1).tolist()]


class Axes:
    """Which axis of each result holds its channels, as the operations pass it on."""

    def __init__(self) -> None:
        self._axis: dict[str, tuple[int, int]] = {}  # name -> (axis, number of axes)

    def of(self, node: Node, tensor: Tensor) -> int:
        """The axis of `node`'s channels: 1 after convolutions, the last one after linear layers."""
        axes = tensor.dim()
        before = next((self._axis[name] for name in node.inputs if name in self._axis), None)
        if node.function in _CHANNELS_SECOND:
            axis = min(1, axes - 1)
        elif node.function in _CHANNELS_LAST:
            axis = axes - 1
        elif before is None or before[1] != axes:
            axis = 1 if axes in (4, 5) else axes - 1
        else:
            axis = _moved(node, before[0], axes)
        self._axis[node.name] = (axis, axes)
        return axis


def _moved(node: Node, axis: int, axes: int) -> int:
    if node.function == "permute":
        order = [place % axes for place in node.arguments["dims"]]
        return order.index(axis)
    if node.function in ("transpose", "swapaxes", "swapdims"):
        one, other = (node.arguments[key] % axes for key in list(node.arguments)[:2])
        return {one: other, other: one}.get(axis, axis)
    return axis


@dataclass(frozen=True, slots=True)
class Sketch:
    """What is kept of one layer's or activation function's result, on its device.

    Attributes:
        count: its units.
        seen: values looked at for each.
        dead: for each unit whether it is; None for layers.
        gram: products of the rows (a sample at a position) over the channels, `[rows, rows]`, sample by sample.
        samples: how many samples the rows are from.
        function: the operation.
    """

    count: int
    seen: int
    dead: Tensor | None
    gram: Tensor
    samples: int
    function: str


def has_units(node: Node) -> bool:
    """Whether `node` is an activation function of one tensor, or a layer with weights."""
    return node.function in _LAYERS or (node.function in ACTIVATION - {"glu"} and len(node.inputs) <= 2)


@torch.no_grad()
def sketch(node: Node, tensor: Tensor, axis: int, batch: int | None) -> Sketch | None:
    """Look at the units of one result.

    Args:
        node: what made it.
        tensor: the result.
        axis: of its channels.
        batch: samples in the batch; a first axis that is no multiple of it is no axis of samples.
    """
    values = tensor.detach()
    if values.dim() < 2 or axis == 0:
        return None
    channels = values.shape[axis]
    others = [place for place in range(values.dim()) if place != axis]
    dead = None
    if node.function in _DIES:
        dead = (values.amax(others) == 0) & (values.amin(others) == 0)
    rows, samples = _rows(values.movedim(axis, -1), batch)
    gram = rows @ rows.mT
    return Sketch(channels, values.numel() // channels, dead, gram, samples, node.function)


def _rows(values: Tensor, batch: int | None) -> tuple[Tensor, int]:
    """Evenly spaced positions of evenly spaced samples, as rows of channels, scaled so that the largest is one."""
    channels = values.shape[-1]
    whole = values.shape[0] if batch is None or values.shape[0] % batch else batch
    values = values.reshape(whole, -1, channels)
    samples = min(whole, _SAMPLES)
    values = values[:: whole // samples][:samples]
    positions = min(values.shape[1], max(1, _ROWS // samples))
    rows = values[:, :: values.shape[1] // positions][:, :positions].reshape(-1, channels).float()
    return rows / rows.abs().amax().clamp_min(1e-30), samples


def units(sketches: list[tuple[Sketch, Tensor]]) -> list[Units]:
    """The numbers of all sketches; each comes with evenly spaced elements of the same result."""
    found = []
    for part, values in sketches:
        dead = () if part.dead is None else tuple(part.dead.nonzero().flatten().tolist())
        found.append(Units(part.count, dead, part.seen, _saturated(part.function, values), _alike(part), _rank(part)))
    return found


def _saturated(function: str, values: Tensor) -> float | None:
    if function == "tanh":
        return float((values.abs() > _FLAT_TANH).float().mean())
    if function == "sigmoid":
        return float(((values - 0.5).abs() > _FLAT_SIGMOID).float().mean())
    if function == "hardsigmoid":
        return float(((values == 0) | (values == 1)).float().mean())
    return None


def _alike(part: Sketch) -> float | None:
    """Mean cosine between two samples: the products of rows at the same position, added up over positions."""
    if part.samples < 2:
        return None
    positions = part.gram.shape[0] // part.samples
    blocks = part.gram.view(part.samples, positions, part.samples, positions)
    products = blocks.diagonal(dim1=1, dim2=3).sum(-1)
    sizes = products.diagonal().clamp_min(0).sqrt()
    cosines = products / (sizes[:, None] * sizes).clamp_min(1e-30)
    apart = ~torch.eye(part.samples, dtype=torch.bool, device=cosines.device)
    value = float(cosines[apart].mean())
    return value if math.isfinite(value) else None


def _rank(part: Sketch) -> float | None:
    if not bool(torch.isfinite(part.gram).all()):
        return None
    values = torch.linalg.eigvalsh(part.gram.double()).clamp_min(0)
    total = values.sum()
    if float(total) == 0:
        return 0.0
    shares = values / total
    entropy = -torch.special.xlogy(shares, shares).sum()
    return float(entropy.exp()) / min(part.gram.shape[0], part.count)
