"""Weights by plan: a scheme reads the graph and decides, the plan says so, `apply` carries it out."""

from firstlight.initialization.apply import Initialized, InitReport, apply
from firstlight.initialization.plan import Decision, Difference, Plan
from firstlight.initialization.schemes import SCHEMES, auto, kaiming, lsuv, mup

__all__ = [
    "SCHEMES", "Decision", "Difference", "InitReport", "Initialized", "Plan", "apply", "auto", "kaiming", "lsuv", "mup",
]  # fmt: skip
