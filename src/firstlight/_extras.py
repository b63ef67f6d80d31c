"""The one door for optional packages."""

import importlib
from types import ModuleType

from firstlight.errors import FirstlightError


def require(module: str, *, extra: str) -> ModuleType:
    """Import `module`, or say which extra of firstlight brings it.

    Raises:
        FirstlightError: slug ``missing-extra``, when the package is not installed.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] != module.split(".")[0]:
            raise
        raise FirstlightError(
            f"this needs the package {module.split('.')[0]!r}, which is not installed",
            f"pip install 'firstlight[{extra}]'",
            slug="missing-extra",
        ) from None
