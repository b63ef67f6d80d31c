"""firstlight's own file as plain values: every step, the input it wants, and where the constants come from."""

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from firstlight.recipe.recipe import Recipe


def export(recipe: "Recipe") -> dict[str, Any]:
    """What `Recipe.save` writes, as a dict. `Recipe.load` reads it back from a file."""
    value: dict[str, Any] = json.loads(recipe.to_json())
    return value
