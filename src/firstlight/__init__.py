"""firstlight: everything before the first epoch of a vision network.

Names are loaded when they are first used, so that importing the package costs milliseconds and
loads neither torch nor numba.
"""

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOME = {
    "FirstlightError": "firstlight.errors",
    "Statistics": "firstlight.statistics",
    "open_source": "firstlight.sources",
    "scan": "firstlight.workflows",
    "fit": "firstlight.workflows",
    "Recipe": "firstlight.recipe",
    "audit": "firstlight.recipe",
    "audit_init": "firstlight.initialization",
    "trace": "firstlight.graph",
    "predict": "firstlight.workflows",
    "initialize": "firstlight.workflows",
    "check": "firstlight.workflows",
    "compare": "firstlight.workflows",
    "prepare": "firstlight.workflows",
}

__all__ = [
    "FirstlightError",
    "Recipe",
    "Statistics",
    "audit",
    "audit_init",
    "check",
    "compare",
    "fit",
    "initialize",
    "open_source",
    "predict",
    "prepare",
    "scan",
    "trace",
]

if TYPE_CHECKING:
    from firstlight.errors import FirstlightError as FirstlightError
    from firstlight.graph import trace as trace
    from firstlight.initialization import audit_init as audit_init
    from firstlight.recipe import Recipe as Recipe
    from firstlight.recipe import audit as audit
    from firstlight.sources import open_source as open_source
    from firstlight.statistics import Statistics as Statistics
    from firstlight.workflows import check as check
    from firstlight.workflows import compare as compare
    from firstlight.workflows import fit as fit
    from firstlight.workflows import initialize as initialize
    from firstlight.workflows import predict as predict
    from firstlight.workflows import prepare as prepare
    from firstlight.workflows import scan as scan


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'firstlight' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME])
