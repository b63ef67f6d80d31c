"""Weights by plan: a scheme reads the graph and decides, the plan says so, `apply` carries it out."""

from firstlight.initialize.apply import Initialized, InitReport, apply
from firstlight.initialize.plan import Decision, Plan
from firstlight.initialize.schemes.kaiming import kaiming

__all__ = ["Decision", "InitReport", "Initialized", "Plan", "apply", "kaiming"]
