"""One forward and backward pass on a real batch, measured at every operation, without a trace."""

from firstlight.graph import untouched
from firstlight.probe.measurements import Measurements, NodeMeasurement, ParameterMeasurement
from firstlight.probe.probe import probe

__all__ = ["Measurements", "NodeMeasurement", "ParameterMeasurement", "probe", "untouched"]
