"""UMLAUT's heuristics that apply to the start of training, at their default thresholds.

Source: Schoop, Huang, Hartmann, "UMLAUT", CHI 2021, and the heuristics of its published program.
"""

import torch
from torch import nn

from faults.peers.observation import Observation, observe
from faults.score import Alarm
from faults.setting import Setting


def umlaut(setting: Setting) -> list[Alarm]:
    """Alarms of the first step."""
    seen = observe(setting)
    return [alarm for rule in (_input, _rate, _head) for alarm in rule(seen)]


def _input(seen: Observation) -> list[Alarm]:
    x = seen.setting.images
    alarms = []
    if not x.is_floating_point():
        alarms.append(Alarm("FL106", "input", title="input is not floating point"))
    if x.shape[-1] != x.shape[-2]:
        alarms.append(Alarm("FL105", "input", title="input shape"))
    if not torch.isfinite(x.float()).all():
        alarms.append(Alarm("FL110", "input", title="NaN in input"))
    if float(x.min()) < -1 or float(x.max()) > 1:
        alarms.append(Alarm("FL101/FL102/FL103", "input", title="input exceeds limits"))
    if seen.losses and seen.losses[0] != seen.losses[0]:
        alarms.append(Alarm("FL308", "loss", title="NaN in loss"))
    return alarms


def _rate(seen: Observation) -> list[Alarm]:
    rates = [group["lr"] for group in seen.setting.optimizer.param_groups]
    high = [Alarm("FL601", "optimizer", title="high learning rate")] if max(rates) > 0.01 else []
    return high + ([Alarm("FL601", "optimizer", title="low learning rate")] if min(rates) < 1e-7 else [])


def _head(seen: Observation) -> list[Alarm]:
    """Probabilities where a loss wants scores, or scores where it wants logarithms."""
    tail = getattr(seen.setting.model, "tail", None)
    alarms = []
    if isinstance(tail, nn.Softmax | nn.Sigmoid) and not isinstance(seen.setting.loss, nn.NLLLoss):
        alarms.append(Alarm("FL502/FL504", "tail", title="activation on the last layer"))
    if isinstance(seen.setting.loss, nn.NLLLoss):
        alarms.append(Alarm("FL501/FL502/FL503", "loss", title="missing softmax before the loss"))
    return alarms
