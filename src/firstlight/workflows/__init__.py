"""The sentences users say: scan, fit, predict, initialize, check, compare, prepare."""

import importlib
from typing import TYPE_CHECKING, Any

from firstlight.workflows.fitting import fit as fit
from firstlight.workflows.scanning import scan as scan

if TYPE_CHECKING:
    from firstlight.workflows.checking import Check as Check
    from firstlight.workflows.checking import check as check
    from firstlight.workflows.comparing import compare as compare
    from firstlight.workflows.initializing import initialize as initialize
    from firstlight.workflows.predicting import predict as predict
    from firstlight.workflows.preparing import Prepared as Prepared
    from firstlight.workflows.preparing import prepare as prepare

# These load torch, which a scan must not do.
_HOME = {
    "predict": "predicting",
    "initialize": "initializing",
    "check": "checking",
    "compare": "comparing",
    "Check": "checking",
    "prepare": "preparing",
    "Prepared": "preparing",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'firstlight.workflows' has no attribute {name!r}")
    return getattr(importlib.import_module(f"firstlight.workflows.{_HOME[name]}"), name)
