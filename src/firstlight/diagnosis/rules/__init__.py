"""Every rule, in the order of its code. One file each; its docstring is its help page."""

import difflib
import importlib
import pkgutil
from functools import cache

from firstlight.diagnosis.rule import Rule
from firstlight.errors import FirstlightError


@cache
def all_rules() -> tuple[Rule, ...]:
    """One of each rule in this package, sorted by code."""
    for module in pkgutil.iter_modules(__path__):
        importlib.import_module(f"{__name__}.{module.name}")
    return tuple(sorted((kind() for kind in Rule.__subclasses__()), key=lambda rule: rule.code))


def find_rule(word: str) -> Rule:
    """The rule with this code or name, whatever the case of its letters.

    Raises:
        FirstlightError: slug ``no-such-rule``.
    """
    known = {key.lower(): rule for rule in all_rules() for key in (rule.code, rule.name)}
    if word.lower() in known:
        return known[word.lower()]
    close = difflib.get_close_matches(word.lower(), known, n=1)
    hint = f"did you mean {close[0].upper() if close[0].startswith('fl') else close[0]}? " if close else ""
    raise FirstlightError(
        f"there is no rule {word!r}",
        f"{hint}`firstlight explain` lists them all",
        slug="no-such-rule",
        call=f"explain {word}",
    )
