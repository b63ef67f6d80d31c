"""AUTOTRAINER's problems at their default thresholds.

Source: Zhang et al., "AUTOTRAINER", ICSE 2021, and the monitor of its published program. Slow convergence and
oscillation of the accuracy need epochs and are left out.
"""

import torch
from torch import nn

from faults.peers.observation import Observation, observe, owner
from faults.score import Alarm
from faults.setting import Setting


def autotrainer(setting: Setting) -> list[Alarm]:
    """Alarms of the first steps."""
    seen = observe(setting)
    return [alarm for rule in (_gradients, _values) for alarm in rule(seen)]


def _gradients(seen: Observation) -> list[Alarm]:
    layers = [name for name in seen.matrices() if name in seen.gradients]
    if not layers:
        return []
    alarms = []
    first, last = (float(seen.gradients[name].norm()) for name in (layers[0], layers[-1]))
    if last == 0 or (first / last < 1e-3 and first < 1e-4):
        alarms.append(Alarm("FL301/FL401/FL403", owner(layers[0]), title="gradient vanish"))
    if not first <= 70 * max(last, 1e-30):
        alarms.append(Alarm("FL302/FL402/FL407", owner(layers[0]), title="gradient explode"))
    zeros = sum(int((seen.gradients[name] == 0).sum()) for name in layers)
    if zeros >= 0.7 * sum(seen.gradients[name].numel() for name in layers):
        alarms.append(Alarm("FL304/FL202/FL403/FL401", "", title="dying ReLU"))
    return alarms


def _values(seen: Observation) -> list[Alarm]:
    large = [n for n in seen.modules(nn.Linear, nn.Conv2d) if not seen.outputs[n].abs().mean() < 10]
    alarms = [Alarm("FL302/FL308", name, title="large outputs") for name in large]
    heavy = [name for name, weight in seen.matrices().items() if not weight.abs().max() <= 5]
    alarms += [Alarm("FL204/FL206", owner(name), title="large weights") for name in heavy]
    if any(not torch.isfinite(torch.tensor(loss)) or loss >= 1e3 for loss in seen.losses):
        alarms.append(Alarm("FL302/FL308/FL407/FL501/FL601/FL602", "loss", title="loss explodes"))
    return alarms
