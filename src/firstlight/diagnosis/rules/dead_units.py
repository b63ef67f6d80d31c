"""FL304."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from firstlight.diagnosis.case import Case, NotChecked
from firstlight.diagnosis.finding import Finding, Repair
from firstlight.diagnosis.flow import Sizes
from firstlight.diagnosis.places import at_node, at_parameter, code, module_of
from firstlight.diagnosis.rule import Rule
from firstlight.graph import Node
from firstlight.graph.vocabulary import NORMALIZATION, POOLING, SHAPE
from firstlight.probe import Units

_FAIL, _WARN, _SAMPLES = 0.9, 0.1, 4
_FAR = 3.0  # standard deviations
_SEEN = 16  # samples of the batch, to say how alike they are


class DeadUnits(Rule):
    """Units that are never active: at their lowest value for every sample and every position.

    **Measured:** the units of each ReLU-like activation that are zero over all samples *and* positions of the batch.
    By the rule of three, a unit that was silent in n independent samples is active in less than 3/n of them, with 95 %
    confidence; positions are not independent and are not counted.

    **Expected:** some units are silent on a small batch by chance, the more, the more alike the samples are there: with
    correlation ρ the chance is `∫ φ(z) Φ(-z √(ρ/(1-ρ)))ⁿ dz`. What is beyond that share is called dead, and so is
    every silent unit whose bias is three standard deviations, of what it is added to, below zero: that one is active in
    one sample of a thousand, however alike these are. More than a tenth of a layer is a warning, nine tenths a failure,
    for then nothing passes it in either direction.

    **Usual causes:** a bias (or a normalization's shift) far below zero; weights whose mean is negative behind
    activations that are never negative; a diverged earlier run.

    **Mends it:** zero biases; draw the layer again.

    **Source:** the rule of three: Hanley and Lippman-Hand, JAMA 249 (1983); dying ReLU: Lu et al., "Dying ReLU and
    Initialization" (2019).
    """

    code = "FL304"
    name = "dead-units"
    explains = frozenset({"FL301", "FL305", "FL401", "FL402"})

    def examine(self, case: Case) -> Iterator[Finding]:
        """One finding: the first layer with dead units, with the others as its victims."""
        nodes = {node.name: node.units for node in case.run.first.nodes if node.units is not None}
        if not nodes:
            raise NotChecked("units were not measured (histograms=False)")
        samples = next((n.shape[0] for n in case.graph.nodes if n.kind == "input" and n.shape), 0)
        if samples < _SAMPLES:
            raise NotChecked(f"a batch of {samples} is too small to call a unit dead")
        silent = {node.name for node in case.run.first.nodes if node.fraction_zero == 1}
        shares: dict[str, tuple[float, float]] = {}
        for name, units in nodes.items():
            if units.dead and not _reads_nothing(case, name, silent):
                expected = _by_chance(samples, _likeness(case, name, nodes))
                noise = 3 * math.sqrt(max(expected * (1 - expected), 0) / units.count)
                share = len(units.dead) / units.count
                if share - expected - noise > _WARN or _held_down(case, name, units) > _WARN * units.count:
                    shares[name] = share, expected
        if shares:
            yield self._finding(case, shares, nodes, samples)

    def _finding(
        self, case: Case, shares: dict[str, tuple[float, float]], nodes: dict[str, Units], samples: int
    ) -> Finding:
        first = next(iter(shares))
        share, expected = shares[first]
        units = nodes[first]
        held = _held_down(case, first, units)
        shift = _shift(case, case.graph[first]) if held > _WARN * units.count else None
        place = "" if shift is None else shift.bias
        rate = min(1.0, 3 / samples)
        return self.finding(
            "fail" if share >= _FAIL else "warn",
            title=f"{len(units.dead)} of {units.count} {case.graph[first].function} units are never active"
            + (f"; so are some in {len(shares) - 1} more layers" if len(shares) > 1 else ""),
            evidence=f"silent over {samples} samples and {units.seen} values each, so each is active in less than "
            f"{rate:.0%} of samples with 95 % confidence; by chance {expected:.1%} of the units would be."
            + (f" {held} have a bias in {place} that is three standard deviations below zero." if place else ""),
            cause="a shift far below zero in front of the activation",
            fix=f"nn.init.zeros_({code(place)})" if place else 'fl.initialize(model, example, scheme="auto", seed=0)',
            victims=tuple(
                f"{self.code} {case.graph[name].module or name}: {s:.0%} of its units are never active"
                for name, (s, _) in list(shares.items())[1:]
            ),
            repair=Repair("initialize", {"parameters": (place,), "scheme": "auto"}) if place else None,
            **(at_parameter(case.graph, place) if module_of(place) else at_node(case.graph, first)),
        )


def _held_down(case: Case, name: str, units: Units) -> int:
    """How many units are never active because their bias is far below zero."""
    shift = _shift(case, case.graph[name])
    if shift is None or len(shift.low) != units.count:
        return 0
    return int(shift.low[list(units.dead)].sum())


def _reads_nothing(case: Case, name: str, silent: set[str]) -> bool:
    """Whether the argument is zero throughout: then the fault is wherever the signal was lost."""
    return bool(case.graph[name].inputs) and case.graph[name].inputs[0] in silent


def _likeness(case: Case, name: str, nodes: dict[str, Units]) -> float:
    """Correlation between samples of a unit's argument, before any bias: the cosine of what its layer reads.

    Behind a pooling, whose likeness is above that of what it pools, that of the layer's own result; in front of the
    first layer, that of the batch.
    """
    layer = ""
    while case.graph[name].inputs and case.graph[name].inputs[0] in case.graph.signal:
        name = case.graph[name].inputs[0]
        if layer and (name in nodes or case.graph[name].function in POOLING):
            known = nodes[name if name in nodes else layer].alike
            return min(max(known or 0.0, 0.0), 1.0)
        if case.graph[name].parameters and name in nodes:
            layer = name
    return _batch_likeness(case)


def _batch_likeness(case: Case) -> float:
    """Mean cosine between two samples of the batch."""
    leaves = (leaf for leaf in tree_leaves(case.batch) if isinstance(leaf, Tensor) and leaf.is_floating_point())
    batch = next((leaf for leaf in leaves if leaf.dim() > 1), None)
    if batch is None or len(batch) < 2:
        return 0.0
    rows = batch.detach()[:_SEEN].double().flatten(1)
    rows = rows / rows.norm(dim=1, keepdim=True).clamp_min(1e-30)
    alike = float(rows.sum(0).square().sum() - rows.square().sum()) / (len(rows) * (len(rows) - 1))
    return min(max(alike, 0.0), 1.0) if math.isfinite(alike) else 0.0


def _by_chance(samples: int, correlation: float) -> float:
    """Chance that `samples` equally correlated normal numbers are all negative."""
    if correlation >= 1 - 1e-9:
        return 0.5
    z = np.linspace(-8, 8, 2001)
    ratio = math.sqrt(correlation / (1 - correlation))
    inside = torch.special.log_ndtr(torch.from_numpy(-z * ratio)).numpy() * samples
    return float(np.sum(np.exp(inside - z * z / 2)) * (z[1] - z[0]) / math.sqrt(2 * math.pi))


@dataclass(frozen=True, slots=True)
class _Shift:
    bias: str
    low: Tensor  # for each unit, whether its bias is far below zero


def _shift(case: Case, activation: Node) -> _Shift | None:
    """The bias right in front of an activation; None where there is none."""
    name = activation.inputs[0]
    while name in case.graph.signal:
        node = case.graph[name]
        bias = dict(node.parameters).get("bias")
        if bias is not None:
            spread = _spread(case, node)
            values = case.model.get_parameter(bias).detach().double()
            return None if spread is None else _Shift(bias, values < -_FAR * spread)
        if node.function not in SHAPE:
            break
        name = node.inputs[0]
    return None


def _spread(case: Case, node: Node) -> Tensor | None:
    """Standard deviation of what each unit's bias is added to; None where it is not known.

    Of a normalization, its scale; of a sum with weights w_u of what has the second moment m, ``‖w_u‖ √m``, for weights
    that know nothing of each other. m counts as one at least: beside a signal that is nothing yet (behind a scale that
    starts at zero) any bias is large.
    """
    weight = dict(node.parameters).get("weight")
    if weight is None:
        return torch.ones((), dtype=torch.float64) if node.function in NORMALIZATION else None
    values = case.model.get_parameter(weight).detach().double()
    if node.function in NORMALIZATION:
        return values.abs()
    size = Sizes(case).forward(node.inputs[0])
    return (
        None
        if size is None or "transpose" in node.function
        else values.flatten(1).norm(dim=1) * math.sqrt(max(size, 1.0))
    )
