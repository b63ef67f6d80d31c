"""Explain the initialization a network already has, without changing it.

Everything is read off the parameters: which family of distributions the elements come from (by the distance of their
distribution from each family with the same mean and standard deviation), how the standard deviation compares with what
the schemes would give, and what should not be there: elements far outside a family, layers that are copies of each
other, units that are, halves that are (shards drawn from one generator), units that read or write nothing.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from firstlight.initialization.plan import table

_SAMPLE = 1 << 16
_OUTLIER = 8.0  # standard deviations; a normal of 10⁹ elements has none beyond 6.5


@dataclass(frozen=True, slots=True)
class Audited:
    """One parameter as it is.

    Attributes:
        name: dotted name.
        shape: of the parameter.
        family: ``"constant"``, ``"normal"``, ``"truncated-normal"`` (cut at two standard deviations), ``"uniform"``,
            ``"orthogonal"``, or ``"other"``.
        mean: of its elements.
        std: standard deviation of its elements, over n.
        like: schemes whose standard deviation it has within 3 % (or three standard errors, where that is more); for
            weights only.
        findings: what should not be there, one sentence each.
    """

    name: str
    shape: tuple[int, ...]
    family: str
    mean: float
    std: float
    like: tuple[str, ...]
    findings: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class InitAudit:
    """The audit of a whole model.

    Attributes:
        parameters: one entry for each parameter, in the model's order; tied ones once.
        not_checked: parameters without values (on the meta device) or that are no floating-point numbers.
    """

    parameters: tuple[Audited, ...]
    not_checked: tuple[str, ...]

    @property
    def findings(self) -> tuple[str, ...]:
        """All findings, with the parameter's name in front."""
        return tuple(f"{p.name}: {finding}" for p in self.parameters for finding in p.findings)

    def __str__(self) -> str:
        head = ("parameter", "family", "mean", "std", "like", "findings")
        rows = [
            (p.name, p.family, f"{p.mean:.4g}", f"{p.std:.4g}", ", ".join(p.like), "; ".join(p.findings))
            for p in self.parameters
        ]
        return table(head, rows + [(name, "-", "", "", "", "not checked") for name in self.not_checked])


def audit_init(model: nn.Module) -> InitAudit:
    """Explain how the parameters of `model` were drawn, and what is wrong with them; nothing is changed or run.

    Fans are taken from the kind of module (groups and transposition included) for convolutions and linear layers; for
    other parameters with two or more dimensions, the first dimension is taken as the outputs.

    Args:
        model: any network.
    """
    named = {name: parameter.detach() for name, parameter in model.named_parameters()}
    checked = {n: p for n, p in named.items() if p.is_floating_point() and not p.is_meta and p.numel()}
    copies = _copies(checked)
    owners = {id(p): m for m in model.modules() for p in m.parameters(recurse=False)}
    entries = []
    for name, parameter in model.named_parameters():
        if name not in checked:
            continue
        values = checked[name].double()
        std, mean = (float(v) for v in torch.std_mean(values, correction=0))
        weight = values.dim() > 1 and std > 1e-6 * abs(mean)
        like = _like(owners[id(parameter)], values, std) if weight and name.endswith("weight") else ()
        found = (*copies.get(name, ()), *_findings(values, mean, std))
        entries.append(Audited(name, tuple(values.shape), _family(values, mean, std), mean, std, like, found))
    return InitAudit(tuple(entries), tuple(name for name in named if name not in checked))


def _family(values: Tensor, mean: float, std: float) -> str:
    if std <= 1e-6 * max(abs(mean), 1e-30) or values.numel() == 1:
        return "constant"
    if values.dim() > 1 and _orthogonal(values.flatten(1)):
        return "orthogonal"
    flat = values.flatten()
    sample = flat[:: math.ceil(flat.numel() / _SAMPLE)].sort().values
    z, n = (sample - mean) / std, sample.numel()
    if n < 32:
        return "other"
    distances = {name: float((law(z) - (torch.arange(n) + 0.5) / n).abs().max()) for name, law in _LAWS.items()}
    best = min(distances, key=distances.__getitem__)
    # Kolmogorov's 0.1 % point is 1.95/√n; half a step of the staircase is allowed for.
    return best if distances[best] <= (1.95 + 0.5) / math.sqrt(n) else "other"


def _phi(z: Tensor) -> Tensor:
    return (1 + torch.erf(z / math.sqrt(2))) / 2


_KEPT = 0.8796256610342398  # standard deviation that a standard normal keeps when cut at ±2
_LAWS = {
    "normal": _phi,
    "truncated-normal": lambda z: ((_phi(z * _KEPT) - 0.022750131948) / 0.954499736104).clamp(0, 1),
    "uniform": lambda z: ((z / math.sqrt(3) + 1) / 2).clamp(0, 1),
}


def _orthogonal(matrix: Tensor) -> bool:
    small = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.mT
    if not 2 <= small.shape[0] <= 1024:
        return False
    gram = small @ small.mT
    scale = float(gram.diagonal().mean())
    return scale > 0 and bool(((gram / scale) - torch.eye(len(gram)).to(gram)).abs().max() < 1e-2)


def _like(owner: nn.Module, values: Tensor, std: float) -> tuple[str, ...]:
    """Schemes that would have given this standard deviation."""
    fan_in, fan_out = _fans(owner, values)
    asked = {
        "torch-default": 1 / math.sqrt(3 * values[0].numel()), "lecture-xavier": 1 / math.sqrt(fan_in),
        "kaiming (relu)": math.sqrt(2 / fan_in), "kaiming-fan-out (relu)": math.sqrt(2 / fan_out),
        "xavier": math.sqrt(2 / (fan_in + fan_out)), "0.02": 0.02,
    }  # fmt: skip
    tolerance = max(0.03, 3 / math.sqrt(2 * values.numel()))
    return tuple(name for name, wanted in asked.items() if abs(std / wanted - 1) <= tolerance)


def _fans(owner: nn.Module, values: Tensor) -> tuple[float, float]:
    taps = math.prod(values.shape[2:])
    if not isinstance(owner, nn.modules.conv._ConvNd):
        return values.shape[1] * taps, values.shape[0] * taps
    stride = math.prod(owner.stride)
    if owner.transposed:
        return values.shape[0] / owner.groups * taps / stride, values.shape[1] * taps
    return values.shape[1] * taps, values.shape[0] / owner.groups * taps / stride


def _findings(values: Tensor, mean: float, std: float) -> tuple[str, ...]:
    found = []
    broken = int((~torch.isfinite(values)).sum())
    if broken:
        found.append(f"{broken} elements are not finite")
    if values.dim() < 2:
        return tuple(found)
    rows = values.flatten(1)
    if not std > 1e-6 * abs(mean):
        same = len(rows) > 1 and rows.shape[1] > 1
        return (*found, "every element is equal: its units stay one unit") if same else tuple(found)
    # The spread of the middle, which outliers do not widen: half the elements lie within 0.6745 σ.
    middle = float((values.flatten()[:: max(1, values.numel() >> 20)] - mean).abs().median()) / 0.6745
    far = (values - mean).abs() / max(middle, 1e-300)
    outliers = int((far > _OUTLIER).sum())
    if outliers and middle > 0:
        found.append(f"{outliers} elements beyond {_OUTLIER:g}σ, the farthest at {float(far.max()):.0f}σ")
    unique = len(torch.unique(rows, dim=0))
    if unique < len(rows):
        found.append(f"{len(rows) - unique} of {len(rows)} units have the incoming weights of another")
    for dim in range(2):
        size = values.shape[dim]
        if size > 1 and size % 2 == 0 and torch.equal(*values.split(size // 2, dim)):
            found.append(f"its halves along dimension {dim} are identical, as when shards share a generator")
    dead = int((rows == 0).all(1).sum()), int((values.transpose(0, 1).flatten(1) == 0).all(1).sum())
    if dead[0]:
        found.append(f"{dead[0]} units read nothing: all their incoming weights are zero")
    if dead[1]:
        found.append(f"{dead[1]} inputs reach nothing: all their outgoing weights are zero")
    return tuple(found)


def _copies(parameters: dict[str, Tensor]) -> dict[str, tuple[str, ...]]:
    """Weights that are not constant and equal another of the same shape."""
    first: dict[tuple[object, ...], list[str]] = {}
    found: dict[str, tuple[str, ...]] = {}
    for name, values in parameters.items():
        if values.dim() < 2 or bool((values == values.flatten()[0]).all()):
            continue
        head = tuple(values.flatten()[:4].tolist())
        twins = first.setdefault((tuple(values.shape), head), [])
        original = next((twin for twin in twins if torch.equal(parameters[twin], values)), None)
        if original is None:
            twins.append(name)
        else:
            found[name] = (f"identical to {original}, as when a layer is deep-copied",)
    return found
