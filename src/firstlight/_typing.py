"""Names for the arrays that travel through firstlight. Aliases only."""

from collections.abc import Callable
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Pixels: TypeAlias = NDArray[np.generic]
"""One image, H×W×C, channels in the order RGB (or as the file stores its bands)."""

Valid: TypeAlias = NDArray[np.bool_]
"""Which pixels count: H×W×C, True where the value takes part in every statistic."""

Floats: TypeAlias = NDArray[np.float64]
"""A statistic: float64, in units of full scale unless its name says otherwise."""

Progress: TypeAlias = Callable[[int, int | None], None]
"""Called with (done, total) as work advances; total is None while it is not known."""
