"""Who counts the blocks: threads of this machine or a Ray cluster. The answer never depends on it."""

from firstlight.engines import local, ray
from firstlight.engines.checkpoint import Checkpoint as Checkpoint
from firstlight.engines.gatherer import Gathered as Gathered
from firstlight.engines.gatherer import Gatherer as Gatherer
from firstlight.engines.observer import Family as Family
from firstlight.engines.observer import Masks as Masks
from firstlight.engines.observer import Observer as Observer

ENGINES = {"local": local.run, "ray": ray.run}
"""By name: (work, blocks, workers) → results in the order of the blocks."""
