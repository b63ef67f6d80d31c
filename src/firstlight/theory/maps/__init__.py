"""One rule per operation: how moments go forward through it, and gradients back."""

from firstlight.theory.maps import (
    arithmetic,
    attention,
    composed,
    einsum,
    folding,
    fused,
    noise,
    normalize,
    pointwise,
    pool,
    recurrent,
    shapes,
    weights,
)
from firstlight.theory.maps.registry import RULES, Context, Step

__all__ = [
    "RULES", "Context", "Step", "arithmetic", "attention", "composed", "einsum", "folding", "fused", "noise",
    "normalize", "pointwise", "pool", "recurrent", "shapes", "weights",
]  # fmt: skip
