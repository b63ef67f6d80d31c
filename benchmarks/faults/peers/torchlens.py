"""TorchLens itself, where it is installed: its audit of a trace with a backward pass, and of the parameters.

Installed by `pip install "torchlens[tabular]==2.36.1"`; it is no dependency of the project.
"""

import copy

from faults.score import Alarm
from faults.setting import Setting

_CODES = {
    "find_nan": "FL308/FL110",
    "bisect_nan": "FL308/FL110",
    "bisect_nan_backward": "FL407",
    "gradient_flow_audit": "FL301/FL302/FL304/FL401/FL402/FL403/FL407",
    "dtype_range_audit": "FL302/FL301/FL204/FL206",
    "dead_neurons": "FL304",
    "param_all_same": "FL201/FL202/FL203",
    "param_nonfinite": "FL308/FL407",
}


def torchlens(setting: Setting) -> list[Alarm]:
    """Its findings, notes of severity "info" left out."""
    import torchlens as lens
    from torchlens.debug import audit_params, audit_trace
    from torchlens.options import CaptureOptions

    model = copy.deepcopy(setting.model)
    options = CaptureOptions(save_grads=True, backward_ready=True)
    trace = lens.trace(model, setting.images, capture=options)
    output = trace[trace.output_layers[0]].out
    trace.log_backward(setting.loss(output, setting.labels))
    findings = list(audit_trace(trace).findings)
    alarms = [_alarm(finding, finding.modules[0] if finding.modules else "") for finding in findings]
    alarms += [_alarm(finding, getattr(finding, "name", "") or "") for finding in audit_params(model).findings]
    return [alarm for alarm in alarms if alarm.severity != "note"]


def _alarm(finding: object, where: str) -> Alarm:
    check, severity = str(getattr(finding, "check", "")), str(getattr(finding, "severity", ""))
    place = where.partition(":")[0]
    return Alarm(_CODES.get(check, "other"), place, "note" if severity == "info" else "warn", check)
