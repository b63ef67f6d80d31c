"""One pass, or a few optimizer steps, on a real batch, measured at every operation, without a trace."""

from firstlight.graph import untouched
from firstlight.probe.measurements import LogHistogram, Measurements, NodeMeasurement, ParameterMeasurement, Units
from firstlight.probe.probe import probe
from firstlight.probe.run import LossCall, Mixing, OptimizerFacts, ParameterStep, Run, Step
from firstlight.probe.steps import run_steps
from firstlight.probe.symmetry import Symmetry, symmetries

__all__ = [
    "LogHistogram",
    "LossCall",
    "Measurements",
    "Mixing",
    "NodeMeasurement",
    "OptimizerFacts",
    "ParameterMeasurement",
    "ParameterStep",
    "Run",
    "Step",
    "Symmetry",
    "Units",
    "probe",
    "run_steps",
    "symmetries",
    "untouched",
]
