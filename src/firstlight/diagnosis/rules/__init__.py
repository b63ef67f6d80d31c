"""Every rule, in the order of its code. One file each; its docstring is its help page."""

import importlib
import pkgutil
from functools import cache

from firstlight.diagnosis.rule import Rule


@cache
def all_rules() -> tuple[Rule, ...]:
    """One of each rule in this package, sorted by code."""
    for module in pkgutil.iter_modules(__path__):
        importlib.import_module(f"{__name__}.{module.name}")
    return tuple(sorted((kind() for kind in Rule.__subclasses__()), key=lambda rule: rule.code))
