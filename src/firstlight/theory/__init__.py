"""What the signal and its gradient should be at every operation, before any weight is drawn."""

from firstlight.theory.derive import Derivation, derive
from firstlight.theory.inputs import InputMoments
from firstlight.theory.leaves import as_they_are
from firstlight.theory.prediction import NodePrediction, Prediction
from firstlight.theory.propagate import forward, propagate, walk

__all__ = [
    "Derivation",
    "InputMoments",
    "NodePrediction",
    "Prediction",
    "as_they_are",
    "derive",
    "forward",
    "propagate",
    "walk",
]
