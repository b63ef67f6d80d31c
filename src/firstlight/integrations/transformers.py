"""A Hugging Face ``TrainerCallback`` that checks the model on its first batch, before the first step."""

from typing import TYPE_CHECKING, Any

import torch
from torch.utils._pytree import tree_map

from firstlight._extras import require
from firstlight.integrations.report import OnStart, first_batch
from firstlight.workflows.checking import check

if TYPE_CHECKING:
    from transformers import TrainerCallback as _Callback
else:
    _Callback = require("transformers", extra="export").TrainerCallback


class FirstlightCheck(OnStart, _Callback):
    """Check the model when a ``Trainer`` starts, on its first batch, with its own loss and its own optimizer."""

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
        self.act(check(model, batch, optimizer=optimizer, **self.options))
