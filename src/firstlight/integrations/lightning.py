"""A Lightning callback that checks the module on its first batch, before the first step."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from firstlight._extras import require
from firstlight.graph import untouched
from firstlight.integrations.report import OnStart, first_batch
from firstlight.workflows.checking import check

if TYPE_CHECKING:
    from lightning.pytorch import Callback as _Callback
else:
    _Callback = require("lightning.pytorch", extra="lightning").Callback


class FirstlightCheck(OnStart, _Callback):
    """Check a ``LightningModule`` when training starts, with its own ``training_step`` and its own optimizer.

    The check makes three steps on a copy of the state, puts everything back, and training begins as if it had not
    been there: weights, buffers, random numbers, the order of the data, and what was logged.
    """

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Check; only the first process does, on its own part of the data."""
        if not trainer.is_global_zero or trainer.global_step > 0:
            return
        batch = trainer.strategy.batch_to_device(first_batch(trainer.train_dataloader), pl_module.device)
        optimizer = trainer.optimizers[0] if len(trainer.optimizers) == 1 else None
        with _as_step(pl_module):
            labels = batch[1] if isinstance(batch, list | tuple) and len(batch) == 2 else None
            found = check(pl_module, {"batch": batch}, labels=labels, optimizer=optimizer, **self.options)
        self.act(found)


@contextmanager
def _as_step(module: Any) -> Iterator[None]:
    """Calling the module computes its training loss, and logs nothing."""

    def forward(batch: Any) -> dict[str, Any]:
        del module.forward  # what the step itself calls is the module's own forward
        try:
            result = module.training_step(batch, 0)
        finally:
            module.forward = forward
        return {"loss": result["loss"] if isinstance(result, dict) else result}

    def silent(*args: Any, **kwargs: Any) -> None:
        """In place of `log`, which wants to know from which hook it is called."""

    with untouched(module):
        module.forward, module.log, module.log_dict = forward, silent, silent
        yield
