"""Statistics of images as values with `+`. Knows arrays; has never heard of files of images."""

from firstlight.statistics.joint import Joint as Joint
from firstlight.statistics.observation import observation as observation
from firstlight.statistics.observation import observe as observe
from firstlight.statistics.observation import runs as runs
from firstlight.statistics.provenance import Provenance as Provenance
from firstlight.statistics.statistics import Statistics as Statistics
from firstlight.statistics.tally import Tally as Tally
