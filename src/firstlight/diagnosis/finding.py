"""What a rule says: one culprit, its cause, the evidence against it, and the way out."""

from dataclasses import dataclass, field
from typing import Any, Literal

Severity = Literal["fail", "warn", "note"]
SEVERITIES: tuple[Severity, ...] = ("fail", "warn", "note")


@dataclass(frozen=True, slots=True)
class Repair:
    """A fix that a program can try on a copy.

    Attributes:
        kind: what to do: ``"initialize"`` (draw `values["parameters"]` again with the scheme `values["scheme"]`),
            ``"images"`` (replace the images x by ``(x[:, order] * scale + shift)``, C numbers each, all optional),
            ``"labels"`` (add `values["shift"]`, or take the index of the largest), ``"bias"`` (set the parameter
            `values["parameter"]` to `values["values"]`), ``"loss"`` (call `values["loss"]`, a loss by its PyTorch
            name, with `values["arguments"]` on the model's output, after the function `values["of"]` of torch if there
            is one), ``"learning_rate"`` (`values["factor"]` times the present one), ``"train"`` (let
            `values["parameters"]` require gradients).
        values: what the kind needs, plain values.
    """

    kind: Literal["initialize", "images", "labels", "bias", "loss", "learning_rate", "train"]
    values: dict[str, Any] = field(default_factory=dict, hash=False)


@dataclass(frozen=True, slots=True)
class Finding:
    """One fault.

    Attributes:
        code: of the rule (``"FL201"``).
        name: of the rule, after the fault (``"symmetric-units"``).
        severity: ``"fail"`` (it will not train as meant), ``"warn"`` (it trains worse), ``"note"`` (worth knowing).
        where: dotted path of the culprit's module, or ``"input"``, ``"labels"``, ``"loss"``, ``"optimizer"``.
        title: the fault in one line, with its number.
        evidence: what was measured, against what was expected and why that is expected.
        cause: what most probably did it.
        fix: code or one sentence that mends it.
        node: the culprit's node in the graph, where there is one.
        source: ``file:line`` of the culprit, where it is known.
        victims: what follows from it, one line each: findings of other places that this one explains.
        repair: the fix for a program, where there is one.
        exact: whether it is read off what was given (equal weights, a sum where a mean is due) and not inferred from
            what the network did: then it explains what follows even where that is worse, and is as bad itself, and
            follows from nothing that is not exact.
    """

    code: str
    name: str
    severity: Severity
    where: str
    title: str
    evidence: str
    cause: str
    fix: str
    node: str | None = None
    source: str | None = None
    victims: tuple[str, ...] = ()
    repair: Repair | None = None
    exact: bool = False
