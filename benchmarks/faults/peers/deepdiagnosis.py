"""DeepDiagnosis's symptoms at their default thresholds.

Source: Wardat et al., "DeepDiagnosis", ICSE 2022, and the callbacks of its published program.
"""

import torch
from torch import nn

from faults.peers.observation import RELU, SATURATING, Observation, observe, owner
from faults.score import Alarm
from faults.setting import Setting


def deepdiagnosis(setting: Setting) -> list[Alarm]:
    """Alarms of the first steps."""
    seen = observe(setting)
    return [alarm for rule in (_outputs, _gradients, _weights, _decisions) for alarm in rule(seen)]


def _outputs(seen: Observation) -> list[Alarm]:
    alarms = []
    for name in seen.modules(nn.Linear, nn.Conv2d, *RELU, *SATURATING, nn.GELU, nn.BatchNorm2d):
        value = seen.outputs[name]
        if not torch.isfinite(value).all() or float(value.mean()) == 0:
            alarms.append(Alarm("FL308/FL110/FL202", name, title="numerical error"))
        if isinstance(seen.setting.model.get_submodule(name), RELU) and (value <= 0).float().mean() >= 0.7:
            alarms.append(Alarm("FL304", name, title="dead node"))
        if name in seen.modules(*SATURATING) and (seen.inputs[name].abs() > 5).float().mean() > 0.5:
            alarms.append(Alarm("FL303", name, title="saturated activation"))
        if float(value.abs().max()) > 10:
            alarms.append(Alarm("FL302", name, title="out of range"))
    return alarms


def _gradients(seen: Observation) -> list[Alarm]:
    small = [name for name, gradient in seen.gradients.items() if not gradient.abs().mean() >= 1e-7]
    return [Alarm("FL301/FL401/FL403/FL407", owner(name), title="vanishing gradient") for name in small]


def _weights(seen: Observation) -> list[Alarm]:
    bad = [name for name, weight in seen.matrices().items() if not 1e-5 <= float(weight.var()) <= 10]
    return [Alarm("FL201/FL202/FL203/FL206", owner(name), title="invalid weights") for name in bad]


def _decisions(seen: Observation) -> list[Alarm]:
    x = seen.setting.images
    alarms = []
    if float(x.min()) < -1 or float(x.max()) > 1:
        alarms.append(Alarm("FL101/FL102/FL103", "input", title="improper data"))
    rate = max(group["lr"] for group in seen.setting.optimizer.param_groups)
    for name, weight in seen.matrices().items():
        if name in seen.gradients and float(weight.abs().mean()) > 0:
            ratio = rate * float(seen.gradients[name].abs().mean() / weight.abs().mean())
            if not 1e-5 <= ratio <= 1e-1:
                alarms.append(Alarm("FL601", owner(name), title="learning rate"))
    if len(seen.losses) > 2 and not seen.losses[2] <= seen.losses[0]:
        alarms.append(Alarm("FL602/FL601", "loss", title="loss does not decrease"))
    return alarms
