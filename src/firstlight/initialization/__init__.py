"""Weights by plan: a scheme reads the graph and decides, the plan says so, `apply` carries it out."""

from firstlight.initialization.apply import Initialized, InitReport, apply
from firstlight.initialization.audit import Audited, InitAudit, audit_init
from firstlight.initialization.head import Head, with_prior
from firstlight.initialization.identical import identical_units
from firstlight.initialization.plan import Decision, Difference, Plan
from firstlight.initialization.schemes import SCHEMES, auto, kaiming, lsuv, mup
from firstlight.probe import Symmetry, symmetries

__all__ = [
    "SCHEMES", "Audited", "Decision", "Difference", "Head", "InitAudit", "InitReport", "Initialized", "Plan",
    "Symmetry", "apply", "audit_init", "auto", "identical_units", "kaiming", "lsuv", "mup", "symmetries", "with_prior",
]  # fmt: skip
