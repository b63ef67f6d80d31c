"""What `firstlight audit` compares: statistics of a source or a file, constants of a configuration or a model."""

import json
import os
from typing import Any

from firstlight._extras import require
from firstlight.errors import FirstlightError
from firstlight.recipe import Recipe
from firstlight.recipe.export.common import standardization
from firstlight.statistics import Statistics
from firstlight.workflows.scanning import scan


def statistics_of(source: str, **options: Any) -> Statistics:
    """Statistics from the file that holds them, else from a scan of the images with `options`."""
    if source.endswith(".json") and os.path.isfile(source):
        return Statistics.load(source)
    return scan(source, **options)


def constants_of(config: str | os.PathLike[str] | None, model: str | None) -> tuple[list[float], list[float]]:
    """Mean and std, full scale = 1, of a configuration file or of a model's published preprocessing.

    Raises:
        FirstlightError: what `Recipe.load` raises; slug ``no-published-preprocessing`` for a model without one.
    """
    recipe = Recipe.load(config) if config is not None else _published(str(model))
    found = standardization(recipe, "audit")
    return [float(m) for m in found.mean], [float(s) for s in found.std]


def _published(model: str) -> Recipe:
    """The preprocessing of ``torchvision:NAME`` or ``timm:NAME``, known without downloading any weights."""
    library, _, name = model.partition(":")
    if library == "timm":
        config = require("timm", extra="zoo").models.get_pretrained_cfg(name, allow_unregistered=False)
        if config is not None:
            return Recipe.load(json.loads(json.dumps(config.to_dict())))
    elif library == "torchvision":
        models = require("torchvision", extra="zoo").models
        if name in models.list_models():
            return Recipe.load(models.get_model_weights(name).DEFAULT.transforms())
    raise FirstlightError(
        f"no preprocessing is published for {model!r}",
        "name torchvision:NAME or timm:NAME of a classifier, or give --mean and --std",
        slug="no-published-preprocessing",
    )
