"""Each fix a finding proposes, tried on a copy: the check before and after."""

import copy
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils._pytree import tree_map

from firstlight.diagnosis import Case, Finding, Repair
from firstlight.errors import FirstlightError
from firstlight.workflows.initializing import initialize

Making = Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]


@dataclass(frozen=True)
class Setting:
    """What a check is made of, to be changed and checked again.

    Attributes:
        model, batch, labels, loss: as `check` takes them; the batch without labels.
        optimizer: a callable that makes one of the model's parameters; None for the default one.
    """

    model: nn.Module
    batch: Any
    labels: Tensor | None
    loss: Callable[..., Tensor] | None
    optimizer: Making | None


@dataclass(frozen=True)
class Trial:
    """One fix, tried.

    Attributes:
        code, where: of the finding.
        done: what was changed, in words.
        before: the finding's title.
        after: what the second check says of it.
        mended: whether the finding is gone and no new failure came.
    """

    code: str
    where: str
    done: str
    before: str
    after: str
    mended: bool


def applied(setting: Setting, repair: Repair, case: Case) -> tuple[Setting, str]:
    """A copy of `setting` with the fix, and what was done in words.

    Raises:
        FirstlightError: slug ``cannot-repair``, when the fix does not fit this setting.
    """
    try:
        return _KINDS[repair.kind](setting, repair.values, case)
    except FirstlightError:
        raise
    except Exception as error:
        raise FirstlightError(
            f"the fix {repair.kind!r} does not fit here: {type(error).__name__}: {error}",
            "apply it by hand, as the finding says",
            slug="cannot-repair",
            call="check(...).repaired()",
        ) from error


def _initialize(setting: Setting, values: dict[str, Any], case: Case) -> tuple[Setting, str]:
    """Only the named parameters are drawn again; the others keep their values."""
    model, drawn = copy.deepcopy(setting.model), copy.deepcopy(setting.model)
    names, scheme = values["parameters"], values.get("scheme", "auto")
    initialize(drawn, setting.batch, scheme=scheme, seed=0)
    fresh = dict(drawn.named_parameters())
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name in names:
                parameter.copy_(fresh[name])
    return _with(setting, model=model), f"{_some(names)} drawn again by {scheme!r}"


def _images(setting: Setting, values: dict[str, Any], case: Case) -> tuple[Setting, str]:
    images = case.images
    if images is None:
        raise ValueError("there are no images")
    mended = images.double()
    if "order" in values:
        mended = mended[:, list(values["order"])]
    for key, change in (("scale", torch.mul), ("shift", torch.add)):
        if key in values:
            factor = torch.as_tensor(values[key], dtype=torch.float64, device=images.device)
            mended = change(mended, factor.view(1, -1, 1, 1))
    mended = mended.to(images.dtype if images.is_floating_point() else torch.float32)
    batch = tree_map(lambda leaf: mended if leaf is images else leaf, setting.batch)
    return _with(setting, batch=batch), "images: " + ", ".join(f"{k} {_short(v)}" for k, v in values.items())


def _labels(setting: Setting, values: dict[str, Any], case: Case) -> tuple[Setting, str]:
    if setting.labels is None:
        raise ValueError("there are no labels")
    if "shift" in values:
        return _with(setting, labels=setting.labels + values["shift"]), f"labels {values['shift']:+d}"
    return _with(setting, labels=setting.labels.argmax(dim=1)), "labels: the index of the largest"


def _bias(setting: Setting, values: dict[str, Any], case: Case) -> tuple[Setting, str]:
    model = copy.deepcopy(setting.model)
    bias = model.get_parameter(values["parameter"])
    with torch.no_grad():
        bias.copy_(torch.as_tensor(values["values"], dtype=bias.dtype, device=bias.device))
    return _with(setting, model=model), f"{values['parameter']} set to {_short(values['values'])}"


def _loss(setting: Setting, values: dict[str, Any], case: Case) -> tuple[Setting, str]:
    """The loss that fits what the model returns; `of` is what the model's output goes through first."""
    function = getattr(functional, values["loss"])
    through: Callable[[Tensor], Tensor] = getattr(torch, values["of"]) if values.get("of") else lambda x: x
    options = values.get("arguments", {})
    said = f"{values['loss']}({values['of']}(output))" if values.get("of") else f"{values['loss']}(output)"
    return _with(setting, loss=lambda output, labels: function(through(output), labels, **options)), f"loss: {said}"


def _rate(setting: Setting, values: dict[str, Any], case: Case) -> tuple[Setting, str]:
    made = setting.optimizer
    if made is None:
        raise ValueError("no optimizer was given")

    def slower(parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        optimizer = made(parameters)
        for group in optimizer.param_groups:
            group["lr"] = group["lr"] * values["factor"]
        return optimizer

    return _with(setting, optimizer=slower), f"learning rate ×{values['factor']:g}"


def _train(setting: Setting, values: dict[str, Any], case: Case) -> tuple[Setting, str]:
    model = copy.deepcopy(setting.model)
    for name in values["parameters"]:
        model.get_parameter(name).requires_grad_(True)
    return _with(setting, model=model), f"{_some(values['parameters'])} let to require gradients"


_KINDS: dict[str, Callable[[Setting, dict[str, Any], Case], tuple[Setting, str]]] = {
    "initialize": _initialize,
    "images": _images,
    "labels": _labels,
    "bias": _bias,
    "loss": _loss,
    "learning_rate": _rate,
    "train": _train,
}


def _with(setting: Setting, **changes: Any) -> Setting:
    return Setting(**({name: getattr(setting, name) for name in Setting.__dataclass_fields__} | changes))


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _short(values: Any) -> str:
    if isinstance(values, list | tuple):
        return ", ".join(_short(v) for v in values[:4]) + (", …" if len(values) > 4 else "")
    return f"{values:.4g}" if isinstance(values, float) else str(values)


def remade(optimizer: torch.optim.Optimizer | Making, model: nn.Module) -> Making:
    """The same optimizer for the parameters of a copy of `model`, which come in the same order."""
    if not isinstance(optimizer, torch.optim.Optimizer):
        return optimizer

    def make(parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        # A deep copy that takes the copy's parameters for the model's, in groups and state alike.
        memo: dict[int, Any] = {id(old): new for old, new in zip(model.parameters(), parameters, strict=True)}
        return copy.deepcopy(optimizer, memo)

    return make


def verdict(finding: Finding, before: Sequence[Finding], after: Sequence[Finding]) -> tuple[str, bool]:
    """What a second check says of a finding that the fix was for."""
    again = next((f for f in after if (f.code, f.where) == (finding.code, finding.where)), None)
    if again is not None:
        return f"still there: {again.title}", False
    known = {(f.code, f.where) for f in before}
    new = [f for f in after if (f.code, f.where) not in known and f.severity == "fail"]
    if new:
        return f"gone, but now {new[0].code} {new[0].where}: {new[0].title}", False
    left = len([f for f in after if f.severity == "fail"])
    return "gone" + (f"; {left} other failures remain" if left else "; no failure remains"), True
