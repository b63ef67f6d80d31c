"""A Hugging Face ``TrainerCallback`` that checks the model on its first batch, before the first step."""

import os
from typing import TYPE_CHECKING, Any

import torch
from torch.utils._pytree import tree_map

from firstlight._extras import require
from firstlight.diagnosis import Severity
from firstlight.integrations.report import OnFinding, act, first_batch
from firstlight.workflows.checking import Check, check

if TYPE_CHECKING:
    from transformers import TrainerCallback as _Callback
else:
    _Callback = require("transformers", extra="export").TrainerCallback


class FirstlightCheck(_Callback):
    """Check the model when a ``Trainer`` starts, on its first batch, with its own loss and its own optimizer.

    Attributes:
        found: the check, once it was made.
    """

    def __init__(
        self,
        fail_on: Severity = "fail",
        on_finding: OnFinding = "raise",
        output: str | os.PathLike[str] | None = None,
        **options: Any,
    ) -> None:
        """
        Args:
            fail_on: from which severity on `on_finding` acts.
            on_finding: "raise" (`FirstlightError`, slug ``check-failed``), "warn", or a callable of the check.
            output: where to write the report, see `Check.save`.
            options: those of `firstlight.check`, such as ``mean=``, ``std=``, ``class_counts=``.
        """
        self.fail_on, self.on_finding, self.output, self.options = fail_on, on_finding, output, options
        self.found: Check | None = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Check; only the first process does, on its own part of the data."""
        if not state.is_world_process_zero or state.global_step > 0:
            return
        model = kwargs["model"]
        device = next(model.parameters()).device
        batch = tree_map(
            lambda leaf: leaf.to(device) if isinstance(leaf, torch.Tensor) else leaf,
            dict(first_batch(kwargs["train_dataloader"])),
        )
        optimizer = kwargs.get("optimizer")
        # Accelerate wraps the optimizer that Trainer made.
        optimizer = getattr(optimizer, "optimizer", optimizer)
        self.found = check(model, batch, optimizer=optimizer, **self.options)
        act(self.found, self.fail_on, self.on_finding, self.output)
