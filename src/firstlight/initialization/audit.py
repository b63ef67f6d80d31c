"""Explain the initialization a network already has, without changing it.

Everything is read off the parameters: which family of distributions the elements come from, how the standard deviation
compares with what the schemes would give, and what should not be there: elements far outside a family, layers that are
copies of each other, units that are, parts that are (shards drawn from one generator), units that read or write
nothing. With an example, fans and nonlinearities come from the operations that really run, and equal units are followed
through three steps on a copy, for training may tell them apart.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from firstlight._text import table
from firstlight.graph import Graph, trace
from firstlight.initialization.families import family
from firstlight.initialization.usage import Usage, from_graph, from_modules, repeated, schemes
from firstlight.probe import symmetries

_OUTLIER = 8.0  # standard deviations; a normal of 10⁹ elements has none beyond 6.5
_SHARDS = range(8, 1, -1)  # processes that may have drawn a weight together; the smallest part that repeats is named


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
        fan_in: numbers that one output sums; ``None`` where it is no weight of a sum.
        fan_out: outputs that one input reaches; likewise.
        against: (scheme, standard deviation it would give), for weights of sums that are not constant.
        like: those of them it has, within 3 % (or three standard errors, where that is more).
        findings: what should not be there, one sentence each.
        remarks: what looks wrong and is not.
    """

    name: str
    shape: tuple[int, ...]
    family: str
    mean: float
    std: float
    fan_in: float | None
    fan_out: float | None
    against: tuple[tuple[str, float], ...]
    like: tuple[str, ...]
    findings: tuple[str, ...]
    remarks: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class InitAudit:
    """The audit of a whole model.

    Attributes:
        parameters: one entry for each parameter, in the model's order; tied ones once.
        not_checked: parameters without values (on the meta device) or that are no floating-point numbers.
        how: where fans come from.
    """

    parameters: tuple[Audited, ...]
    not_checked: tuple[str, ...]
    how: str

    @property
    def findings(self) -> tuple[str, ...]:
        """All findings, with the parameter's name in front."""
        return tuple(f"{p.name}: {finding}" for p in self.parameters for finding in p.findings)

    def __str__(self) -> str:
        head = ("parameter", "family", "mean", "std", "like", "findings")
        rows = [
            (p.name, p.family, f"{p.mean:.4g}", f"{p.std:.4g}", ", ".join(p.like), "; ".join(p.findings + p.remarks))
            for p in self.parameters
        ]
        return table(head, rows + [(name, "-", "", "", "", "not checked") for name in self.not_checked])


@torch.no_grad()
def audit_init(model: nn.Module, example: Any = None, *, graph: Graph | None = None) -> InitAudit:
    """Explain how the parameters of `model` were drawn, and what is wrong with them; the model is left as it was.

    Args:
        model: any network.
        example: a batch of two or more different samples as the model takes it. Without one nothing is run: fans are
            taken from the kinds of the modules, and every set of equal units is a finding.
        graph: of this model, if it was traced before.

    Raises:
        FirstlightError: with an example, what tracing raises.
    """
    named = {name: parameter.detach() for name, parameter in model.named_parameters()}
    checked = {n: p for n, p in named.items() if p.is_floating_point() and not p.is_meta and p.numel()}
    lasting: dict[str, bool] = {}
    if example is not None:
        graph = graph or trace(model, example)
        if len(checked) == len(named):
            lasting = {found.parameter: found.permanent for found in symmetries(model, example)}
    usages = from_modules(model) if graph is None else from_graph(graph)
    copies = _copies(checked)
    entries = tuple(
        _audited(name, values.double(), usages.get(name), copies.get(name), lasting.get(name))
        for name, values in checked.items()
    )
    return InitAudit(
        entries,
        tuple(name for name in named if name not in checked),
        "fans by the kind of module" if graph is None else f"fans from the graph, {graph.how}",
    )


def _audited(name: str, values: Tensor, usage: Usage | None, copy: str | None, lasting: bool | None) -> Audited:
    std, mean = (float(v) for v in torch.std_mean(values, correction=0))
    varies = std > 1e-6 * abs(mean)
    findings = list(_elements(values, mean, varies=varies))
    remarks: list[str] = []
    if copy is not None:
        findings.insert(0, f"identical to {copy}, as when a layer is deep-copied")
    sizes: Mapping[str, float] = {}
    if usage is not None:
        if varies:
            sizes = schemes(usage, values)
            findings += _fans(usage, values)
        (remarks if lasting is False else findings).extend(_equal_units(usage, values, lasting, varies=varies))
    tolerance = max(0.03, 3 / math.sqrt(2 * values.numel()))
    return Audited(
        name, tuple(values.shape), family(values, mean, std), mean, std,
        None if usage is None else usage.fan_in, None if usage is None else usage.fan_out, tuple(sizes.items()),
        tuple(scheme for scheme, size in sizes.items() if abs(std / size - 1) <= tolerance),
        tuple(findings), tuple(remarks),
    )  # fmt: skip


def _elements(values: Tensor, mean: float, *, varies: bool) -> Iterator[str]:
    broken = int((~torch.isfinite(values)).sum())
    if broken:
        yield f"{broken} elements are not finite"
    if not varies or values.dim() < 2:
        return
    # The spread of the middle, which outliers do not widen: half the elements lie within 0.6745 σ.
    middle = float((values.flatten()[:: max(1, values.numel() >> 20)] - mean).abs().median()) / 0.6745
    far = (values - mean).abs() / max(middle, 1e-300)
    outliers = int((far > _OUTLIER).sum())
    if outliers and middle > 0:
        yield f"{outliers} elements beyond {_OUTLIER:g}σ, the farthest at {float(far.max()):.0f}σ"
    for dim in range(2):
        size = next((math.ceil(values.shape[dim] / n) for n in _SHARDS if _parts_repeat(values, dim, n)), None)
        if size is not None:
            yield f"parts of {size} along dimension {dim} are identical, as when shards share a generator"


def _parts_repeat(values: Tensor, dim: int, parts: int) -> bool:
    """Whether the second part of a dimension cut for `parts` processes repeats the first."""
    size = math.ceil(values.shape[dim] / parts)
    if size < 2 or 2 * size > values.shape[dim]:
        return False
    first, second = values.narrow(dim, 0, size), values.narrow(dim, size, size)
    return torch.equal(first, second) and not bool((first == first.flatten()[0]).all())


def _fans(usage: Usage, values: Tensor) -> Iterator[str]:
    """Weights of which some read or write nothing."""
    unread, unwritten = ((rows == 0).all(1).sum() for rows in (usage.units(values), usage.inputs(values)))
    if unread:
        yield f"{int(unread)} units read nothing: all their incoming weights are zero"
    if unwritten:
        yield f"{int(unwritten)} inputs reach nothing: all their outgoing weights are zero"


def _equal_units(usage: Usage, values: Tensor, lasting: bool | None, *, varies: bool) -> Iterator[str]:
    """Units with the same incoming weights, and what comes of it if that is known."""
    units = usage.units(values)
    if len(units) < 2 or (not varies and lasting is None and units.shape[1] < 2):
        return
    equal = repeated(units) if varies else len(units) - 1
    if not equal:
        return
    fate = {True: "they stay one unit", False: "training tells them apart", None: ""}[lasting]
    if varies:
        yield f"{equal} of {len(units)} units have the incoming weights of another" + (f": {fate}" if fate else "")
    else:
        yield f"every element is equal: {fate or 'its units stay one unit'}"


def _copies(parameters: Mapping[str, Tensor]) -> dict[str, str]:
    """The first parameter that each later one of two or more dimensions equals; constant ones are alike anyway."""
    first: dict[tuple[object, ...], list[str]] = {}
    found: dict[str, str] = {}
    for name, values in parameters.items():
        if values.dim() < 2 or bool((values == values.flatten()[0]).all()):
            continue
        head = tuple(values.flatten()[:4].tolist())
        twins = first.setdefault((tuple(values.shape), head), [])
        original = next((twin for twin in twins if torch.equal(parameters[twin], values)), None)
        if original is None:
            twins.append(name)
        else:
            found[name] = original
    return found
