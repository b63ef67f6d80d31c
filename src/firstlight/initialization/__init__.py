"""Weights by plan: a scheme reads the graph and decides, the plan says so, `apply` carries it out."""

from firstlight.initialization.apply import Initialized, InitReport, apply
from firstlight.initialization.plan import Decision, Plan
from firstlight.initialization.schemes.kaiming import kaiming

__all__ = ["Decision", "InitReport", "Initialized", "Plan", "apply", "kaiming"]
