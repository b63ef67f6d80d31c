"""How the units of a layer or of an activation function differ, over samples and positions."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from firstlight.graph import Node
from firstlight.graph.vocabulary import ACTIVATION, CONVOLUTION, TRANSPOSED
from firstlight.probe.histograms import coprime_step
from firstlight.probe.measurements import Units

_SAMPLES, _ROWS = 16, 128  # at most so many samples, and so many rows: positions of samples

_LAYERS = CONVOLUTION | TRANSPOSED | {"linear", "addmm"}
_NONLINEARITIES = ACTIVATION - {"glu", "abs", "square", "sin", "cos"}
# These are exactly zero only where they are flat, a point at most excepted.
_FLAT_AT_ZERO = frozenset(
    {"relu", "relu6", "threshold", "clamp_min", "hardswish", "hardsigmoid", "gelu", "silu", "mish"}
)
# Where the slope is below 1e-3 of the largest: 1 - y² < 1e-3 for tanh, 4y(1 - y) = 1 - (2y - 1)² for sigmoid, y + 1 for
# ELU, which comes to the lowest value within 1e-3.
_FLAT_SLOPE = 1e-3


@dataclass(frozen=True, slots=True)
class Sketch:
    """What is kept of one result, on its device.

    Attributes:
        node: the operation.
        count: its units.
        seen: values of each, over samples and positions.
        dead: for each unit, whether it is; None where units cannot be.
        alike: mean cosine between two samples; NaN when there is one.
        uniform: mean cosine between two positions of a sample; NaN when there is one.
        moment: second moments of a few rows (the units at one position of one sample), or the rows' products, which
            have the same spectrum and may be fewer.
    """

    node: Node
    count: int
    seen: int
    dead: Tensor | None
    alike: Tensor
    uniform: Tensor
    moment: Tensor


def has_units(node: Node) -> bool:
    """Whether `node` is a function of one number, or a layer with weights."""
    alone = len(node.inputs) == 1 or node.function == "prelu"
    return node.function in _LAYERS or (node.function in _NONLINEARITIES and alone)


@torch.no_grad()
def sketch(node: Node, tensor: Tensor, axis: int, batch: int | None) -> Sketch | None:
    """Look at the units of one result.

    Args:
        node: what made it.
        tensor: the result; samples first.
        axis: of its units.
        batch: samples in the batch; a first axis several times as long holds parts of samples (windows, say).
    """
    values = tensor.detach()
    if values.dim() < 2 or axis == 0:
        return None
    count = values.shape[axis]
    whole = batch if batch is not None and values.shape[0] % batch == 0 else values.shape[0]
    rows = _rows(values.movedim(axis, -1), whole)
    matrix = rows.flatten(0, 1)
    moment = matrix @ matrix.mT if len(matrix) <= count else matrix.mT @ matrix
    dead = _dead(node, values, axis)
    alike, uniform = _mean_cosine(rows.flatten(1)), _mean_cosine(rows).mean()
    return Sketch(node, count, values.numel() // count, dead, alike, uniform, moment)


def _mean_cosine(vectors: Tensor) -> Tensor:
    """Of all ordered pairs of n different vectors ``[…, n, length]``; NaN for one vector.

    ``|Σu|² = Σ|u|² + Σ of the cosines`` for unit vectors u.
    """
    units = vectors / torch.linalg.vector_norm(vectors, dim=-1, keepdim=True).clamp_min(1e-30)
    pairs = units.sum(-2).square().sum(-1) - units.square().sum((-2, -1))
    return pairs / torch.as_tensor(float(vectors.shape[-2] * (vectors.shape[-2] - 1)))


def _rows(values: Tensor, samples: int) -> Tensor:
    """A few evenly spaced positions of a few samples, ``[samples, positions, units]``; the largest element is one."""
    values = values.reshape(samples, -1, values.shape[-1])
    chosen = values[:: -(-samples // _SAMPLES)]
    length = chosen.shape[1]
    positions = min(length, max(1, _ROWS // len(chosen)))
    # Multiples of the golden section are evenly spaced for any number of them.
    step = coprime_step(length, round(0.618 * length))
    where = torch.arange(positions, device=values.device) * step % length
    rows = chosen[:, where].float()
    return rows / rows.abs().amax().clamp_min(1e-30)


def _dead(node: Node, values: Tensor, axis: int) -> Tensor | None:
    others = [place for place in range(values.dim()) if place != axis]
    if node.function in _FLAT_AT_ZERO or _is_relu6(node):
        return (values.amax(others) == 0) & (values.amin(others) == 0)
    if node.function in ("elu", "celu", "selu"):
        lowest = -1.7580993408473766 if node.function == "selu" else -float(node.arguments.get("alpha", 1.0))
        return values.amax(others) < lowest * (1 - _FLAT_SLOPE)
    return None


def _is_relu6(node: Node) -> bool:
    return node.function == "hardtanh" and node.arguments["min_val"] == 0


@torch.no_grad()
def units(sketches: list[tuple[Sketch, Tensor]]) -> list[Units]:
    """The numbers of all sketches, in two transfers; each comes with evenly spaced elements of its result."""
    if not sketches:
        return []
    parts = [part for part, _ in sketches]
    pairs = [(part.alike, part.uniform) for part in parts]
    device = parts[0].moment.device
    shares = [_saturated(part.node, values).to(device) for part, values in sketches]
    cosines = [torch.stack([value.to(device) for value in column]) for column in zip(*pairs, strict=True)]
    numbers = torch.stack([*cosines, torch.stack(shares), _ranks(parts)])
    masks = torch.cat([part.dead.to(device) for part in parts if part.dead is not None] or [torch.zeros(0)]).tolist()
    found, start = [], 0
    for part, (alike, uniform, saturated, rank) in zip(parts, numbers.T.tolist(), strict=True):
        length = 0 if part.dead is None else part.count
        dead = tuple(i for i, is_dead in enumerate(masks[start : start + length]) if is_dead)
        start += length
        found.append(
            Units(part.count, dead, part.seen, _known(saturated), _known(alike), _known(rank), _known(uniform))
        )
    return found


def _known(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _saturated(node: Node, values: Tensor) -> Tensor:
    """Share of elements where a function that is flat on both sides is so; NaN for other functions."""
    edge = math.sqrt(1 - _FLAT_SLOPE)
    if node.function == "tanh":
        flat = values.abs() > edge
    elif node.function == "sigmoid":
        flat = (2 * values - 1).abs() > edge
    elif node.function == "hardsigmoid":
        flat = (values == 0) | (values == 1)
    elif node.function == "hardtanh" and not _is_relu6(node):
        flat = (values == node.arguments["min_val"]) | (values == node.arguments["max_val"])
    else:
        return torch.full((), math.nan)
    return flat.float().mean()


def _ranks(parts: list[Sketch]) -> Tensor:
    """exp of the entropy of each spectrum, over the number of its values; NaN where a moment is not finite."""
    ranks = torch.full((len(parts),), math.nan, device=parts[0].moment.device)
    sizes: dict[int, list[int]] = {}
    for i, part in enumerate(parts):
        sizes.setdefault(len(part.moment), []).append(i)
    for size, which in sizes.items():
        moments = torch.stack([parts[i].moment.to(ranks.device) for i in which])
        finite = torch.isfinite(moments).all(-1).all(-1)
        # In double precision and of one size: LAPACK may fail to converge on float32 moments of nearly equal samples.
        kept = moments.where(finite[:, None, None], 0).double()
        values = torch.linalg.eigvalsh(kept / kept.abs().amax((1, 2), keepdim=True).clamp_min(1e-300)).clamp_min(0)
        total = values.sum(-1, keepdim=True)
        p = values / total.clamp_min(1e-300)
        entropy = -torch.special.xlogy(p, p).sum(-1)
        # No signal at all has no direction.
        rank = (entropy.exp() / size).where(total[:, 0] > 0, 0).where(finite, math.nan)
        ranks[torch.tensor(which, device=ranks.device)] = rank.float()
    return ranks
