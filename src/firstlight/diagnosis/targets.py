"""What the loss compares the labels with, known even when the loss itself would not run."""

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from firstlight.diagnosis.case import Case, NotChecked
from firstlight.graph import call_arguments, untouched

CLASSES = frozenset({"cross_entropy", "nll_loss"})
BINARY = frozenset({"binary_cross_entropy", "binary_cross_entropy_with_logits"})
DISTANCES = frozenset({"mse_loss", "l1_loss", "smooth_l1_loss", "huber_loss"})


@dataclass(frozen=True)
class Task:
    """Labels, the scores they belong to, and the loss between them.

    Attributes:
        labels: as they were given.
        scores: first argument of the loss, or the model's output; None when not even that is known.
        loss: name of the function in ``torch.nn.functional``; empty when it is made of other parts.
        ignored: the label that the loss leaves out.
        classes: how many there are; None when nobody knows.
    """

    labels: Tensor
    scores: Tensor | None
    loss: str
    ignored: int
    classes: int | None

    @property
    def indices(self) -> Tensor | None:
        """Labels that count, flat, where they are whole numbers that stand for classes; None where they are not."""
        y = self.labels
        if y.is_floating_point() or y.is_complex() or y.dtype == torch.bool or self.loss in DISTANCES:
            return None
        if self.scores is not None and y.dim() > 1 and y.shape == self.scores.shape and self.scores.shape[-1] > 1:
            return None  # one number for each score: not indices
        flat = y.flatten().long()
        flat = flat[flat != self.ignored]
        return flat if flat.numel() else None

    @property
    def shift(self) -> int | None:
        """What to add so that the labels start at zero and fit; None when that is not what is wrong with them."""
        indices = self.indices
        if indices is None or self.classes is None or self.classes < 2:
            return None
        low, high = int(indices.min()), int(indices.max())
        if low >= 1 and high == self.classes:
            return -1
        return 1 if low == -1 and high <= self.classes - 2 and len(torch.unique(indices)) > 2 else None


def task(case: Case) -> Task:
    """What is to be learned from the labels.

    Raises:
        NotChecked: without labels.
    """
    if not isinstance(case.labels, Tensor) or case.labels.numel() == 0:
        raise NotChecked("no labels were given")
    calls = () if case.measured is None else case.run.losses
    own = [call for call in calls if call.function in CLASSES | BINARY | DISTANCES]
    if own:
        call = own[0]
        ignored = int(call.arguments.get("ignore_index", -100))
        return _task(case, call.input, call.function, ignored)
    output = _output(case)
    if case.loss is None:
        return _task(case, output, "cross_entropy" if _whole(case.labels) else "", -100)
    first = _First()
    with contextlib.suppress(Exception), torch.no_grad(), first:  # it failed in the steps, and may fail here
        case.loss(output, case.labels)
    return _task(case, output if first.input is None else first.input, first.name, first.ignored)


def _task(case: Case, scores: Tensor | None, loss: str, ignored: int) -> Task:
    assert case.labels is not None, "task asked"
    width = scores.shape[1] if scores is not None and scores.dim() >= 2 else None
    return Task(case.labels, scores, loss, ignored, case.classes or len(case.class_counts or ()) or width)


def _whole(labels: Tensor) -> bool:
    return not (labels.is_floating_point() or labels.is_complex())


class _First(TorchFunctionMode):
    """While it is on, notes which of PyTorch's losses is called first, before the call can fail."""

    def __init__(self) -> None:
        super().__init__()
        self.name = ""
        self.input: Tensor | None = None
        self.ignored = -100

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        name = getattr(func, "__name__", "")
        if not self.name and name in CLASSES | BINARY | DISTANCES:
            self.name = name
            self.input = next((x for x in (*args, kwargs.get("input")) if isinstance(x, Tensor)), None)
            self.ignored = int(kwargs.get("ignore_index", -100))
        return func(*args, **kwargs)


def _output(case: Case) -> Tensor | None:
    """The model's first floating-point result; when the steps failed, from one forward pass, if that works."""
    if case.measured is not None:
        result = case.run.output
    else:
        try:
            args, kwargs = call_arguments(case.batch)
            with untouched(case.model), torch.no_grad():
                result = case.model(*args, **kwargs)
        except Exception:  # whatever a model raises on an input that does not fit it
            return None
    leaves = tree_leaves(result)
    return next((leaf for leaf in leaves if isinstance(leaf, Tensor) and leaf.is_floating_point()), None)
