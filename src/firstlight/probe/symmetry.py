"""The symmetry problem, shown: units of a layer that are the same and will stay the same.

Two units with equal incoming weights compute the same number. If the loss's gradient by those weights is equal too, a
step of gradient descent leaves them equal, and so on for ever: the layer has one unit, whatever its width (all zeros,
any constant). If the gradients differ, because the weights that *read* the two units differ, the first step tells them
apart. Gradients that are equal only because they are zero for now (behind a scale that starts at zero) show what they
are after a few steps, so equal units are followed through three of them on the way to the verdict.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from firstlight.graph import call_arguments, untouched
from firstlight.probe.losses import Loss, evaluate

_STEPS, _SAME = 3, 1e-4


@dataclass(frozen=True, slots=True)
class Symmetry:
    """Units of one layer with equal incoming weights.

    Attributes:
        parameter: name of the weight whose rows (first dimension) are the units' incoming weights.
        units: how many it has.
        groups: indices of units that are equal, one tuple for each set of two or more.
        permanent: true when they also receive equal gradients and stay equal; false when training tells them apart.
    """

    parameter: str
    units: int
    groups: tuple[tuple[int, ...], ...]
    permanent: bool


def symmetries(
    model: nn.Module, batch: Any, labels: Tensor | None = None, loss: Loss | None = None
) -> tuple[Symmetry, ...]:
    """Find every layer with identical units, and whether training will tell them apart; the model is left as it was.

    Args:
        model: any module, on the device of the batch.
        batch: a real batch as the model takes it; two or more different samples.
        labels: of the batch; without labels or loss, the distance to a fixed random target is differentiated.
        loss: callable of the output (and of `labels`, when given) that returns one number.

    Returns:
        One entry for each weight with equal rows (its bias among them), in the model's order. A weight whose rows are
        equal in part counts as permanent when any group stays together.

    Raises:
        FirstlightError: slug ``loss-does-not-fit``, when the loss does not fit the model's output.
    """
    found = {name: (_groups(rows), rows.shape[0]) for name, rows in _incoming(model) if rows.shape[0] > 1}
    suspects = {name: groups for name, (groups, _) in found.items() if groups}
    if not suspects:
        return ()
    stays = _followed(model, batch, labels, loss, suspects)
    return tuple(Symmetry(name, found[name][1], groups, stays[name]) for name, groups in suspects.items())


def _incoming(model: nn.Module) -> list[tuple[str, Tensor]]:
    """Incoming weights of each unit, with its bias, as rows."""
    parameters = {name: parameter.detach() for name, parameter in model.named_parameters()}
    rows = []
    for name, weight in parameters.items():
        if weight.dim() < 2 or not weight.is_floating_point() or weight.is_meta:
            continue
        stem, _, last = name.rpartition(".")
        if weight[0].numel() == 1 and not _reads_one(model.get_submodule(stem), last):
            continue
        bias = parameters.get(f"{stem}.{last.replace('weight', 'bias')}") if "weight" in last else None
        flat = weight.flatten(1)
        rows.append(
            (name, torch.cat([flat, bias[:, None]], 1) if bias is not None and len(bias) == len(flat) else flat)
        )
    return rows


def _reads_one(owner: nn.Module, name: str) -> bool:
    """Whether rows of one element are units with one input, and not scales of a channel each."""
    whole = isinstance(owner, nn.Linear) or (isinstance(owner, nn.modules.conv._ConvNd) and owner.groups == 1)
    return whole and name == "weight"


def _groups(rows: Tensor) -> tuple[tuple[int, ...], ...]:
    """Indices of equal rows: those whose products with a random vector agree are compared in full."""
    probe = torch.randn(rows.shape[1], dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    products = rows.double() @ probe.to(rows.device)
    order = products.argsort()
    near = products[order].diff() <= 1e-9 * rows.double().norm(dim=1).max().clamp_min(1e-300)
    candidates = order[torch.cat([near.new_zeros(1), near]) | torch.cat([near, near.new_zeros(1)])].sort().values
    if not len(candidates):
        return ()
    rows = rows[candidates]
    _, which, counts = torch.unique(rows, dim=0, return_inverse=True, return_counts=True)
    several = (counts > 1).nonzero().flatten().tolist()
    return tuple(sorted(tuple(candidates[which == k].tolist()) for k in several))


def _followed(
    model: nn.Module, batch: Any, labels: Tensor | None, loss: Loss | None,
    suspects: dict[str, tuple[tuple[int, ...], ...]],
) -> dict[str, bool]:  # fmt: skip
    """Whether each suspect keeps a group of equal units through a few steps of gradient descent."""
    args, kwargs = call_arguments(batch)
    with untouched(model), torch.enable_grad():
        model.train()
        for parameter in model.parameters():
            parameter.requires_grad_(parameter.is_floating_point())
        named = dict(model.named_parameters())
        before = {name: rows.clone() for name, rows in _incoming(model) if name in suspects}
        for _ in range(_STEPS):
            for parameter in named.values():
                parameter.grad = None
            value, _ = evaluate(model(*args, **kwargs), labels, loss)
            value.backward()
            _step(list(named.values()))
        after = dict(_incoming(model))
        return {name: _stay(before[name], after[name], groups) for name, groups in suspects.items()}


@torch.no_grad()
def _step(parameters: Sequence[nn.Parameter]) -> None:
    """Move each parameter along its gradient by a tenth of its own size; one that is zero by a tenth on average."""
    for parameter in parameters:
        if parameter.grad is None:
            continue
        length = parameter.grad.norm()
        size = torch.where(parameter.norm() > 0, parameter.norm(), parameter.numel() ** 0.5)
        if length > 0 and bool(torch.isfinite(length)):
            parameter.sub_(parameter.grad * (0.1 * size / length))


def _stay(before: Tensor, after: Tensor, groups: Sequence[Sequence[int]]) -> bool:
    """Whether a group stays together; one that nothing moved, where others moved, was only silent on this batch."""
    moved = (before != after).any(1)
    judged = [group for group in groups if bool(moved[list(group)].any()) or not bool(moved.any())]
    return any(_together(after, group) for group in judged)


def _together(rows: Tensor, group: Sequence[int]) -> bool:
    """Whether any two of the group are still equal, up to the rounding of sums in another order."""
    units = rows[list(group)].double()
    tolerance = _SAME * max(float(units.norm(dim=1).max()), 1e-30)
    distances = torch.cdist(units, units, compute_mode="donot_use_mm_for_euclid_dist")
    distances.fill_diagonal_(torch.inf)
    return bool((distances <= tolerance).any())
