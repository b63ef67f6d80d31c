"""The sentences users say: scan, initialize, prepare."""

from typing import TYPE_CHECKING, Any

from firstlight.workflows.scanning import scan as scan

if TYPE_CHECKING:
    from firstlight.workflows.prepare import prepare as prepare


def __getattr__(name: str) -> Any:
    # prepare and initialize load torch; scan must not.
    if name in ("prepare", "initialize"):
        import importlib

        return getattr(importlib.import_module(f"firstlight.workflows.{name}"), name)
    raise AttributeError(f"module 'firstlight.workflows' has no attribute {name!r}")
