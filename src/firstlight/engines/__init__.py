"""Who counts the blocks: threads of this machine. The answer never depends on how many."""

from firstlight.engines.checkpoint import Checkpoint as Checkpoint
from firstlight.engines.local import run as run
from firstlight.engines.observer import Family as Family
from firstlight.engines.observer import Masks as Masks
from firstlight.engines.observer import Observer as Observer
