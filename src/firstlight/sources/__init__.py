"""Where images come from, and how their bytes become pixels."""

from firstlight.sources.decode import decode as decode
from firstlight.sources.decode import decoder_versions as decoder_versions
from firstlight.sources.opening import open_source as open_source
from firstlight.sources.picture import Picture as Picture
from firstlight.sources.picture import Policy as Policy
from firstlight.sources.picture import Unreadable as Unreadable
from firstlight.sources.source import Block as Block
from firstlight.sources.source import Reader as Reader
from firstlight.sources.source import Source as Source
from firstlight.sources.source import Stream as Stream
from firstlight.sources.source import Subset as Subset
from firstlight.sources.splits import guard as guard
from firstlight.sources.transform import RESAMPLING as RESAMPLING
from firstlight.sources.transform import Transform as Transform
