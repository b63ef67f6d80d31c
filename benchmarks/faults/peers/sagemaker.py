"""Amazon SageMaker Debugger's built-in rules at their default thresholds.

Source: Amazon SageMaker Developer Guide, "List of Debugger Built-in Rules". A rule's alarm may mean any of the codes
beside it.
"""

import torch
from torch import nn

from faults.peers.observation import RELU, Observation, observe, owner
from faults.score import Alarm
from faults.setting import Setting


def sagemaker(setting: Setting) -> list[Alarm]:
    """Alarms over ten steps."""
    seen = observe(setting)
    tensors = (_vanishing, _exploding, _dead, _saturated, _initialization, _update_ratio, _unchanged)
    return [alarm for rule in (*tensors, _loss, _images, _classes) for alarm in rule(seen)]


def _vanishing(seen: Observation) -> list[Alarm]:
    small = [name for name, gradient in seen.gradients.items() if gradient.abs().mean() < 1e-7]
    return [Alarm("FL301/FL401/FL403", owner(name), title="VanishingGradient") for name in small]


def _exploding(seen: Observation) -> list[Alarm]:
    everything = {**seen.outputs, **{owner(name): value for name, value in seen.gradients.items()}}
    bad = [name for name, value in everything.items() if not torch.isfinite(value.float()).all()]
    return [Alarm("FL308/FL407/FL110", name, title="ExplodingTensor") for name in bad]


def _dead(seen: Observation) -> list[Alarm]:
    alarms = []
    for name in seen.modules(*RELU):
        active = (_units(seen.outputs[name]) > 0).float().mean(0)
        if (active < 0.01).float().mean() > 0.5:
            alarms.append(Alarm("FL304", name, title="DeadRelu"))
    return alarms


def _saturated(seen: Observation) -> list[Alarm]:
    alarms = []
    for kind, low, high in ((nn.Tanh, -9.4999, 9.4999), (nn.Sigmoid, -23.0, 16.99999)):
        for name in seen.modules(kind):
            given = _units(seen.inputs[name])
            working = ((given > low) & (given < high)).float().mean(0)
            if (working < 0.01).float().mean() > 0.5:
                alarms.append(Alarm("FL303", name, title="SaturatedActivation"))
    return alarms


def _initialization(seen: Observation) -> list[Alarm]:
    """Variances of what enters ReLU units, spread of gradients, and a loss that does not fall for five steps."""
    codes = "FL201/FL202/FL203/FL205/FL206/FL301/FL302"
    variances = [float(seen.inputs[name].var()) for name in seen.modules(*RELU)]
    alarms = []
    if variances and max(variances) > 10 * min(variances):
        alarms.append(Alarm(codes, "", title="PoorWeightInitialization: variance"))
    for name, gradient in seen.gradients.items():
        if torch.isfinite(gradient).all():
            low, high = torch.quantile(gradient.flatten()[:100_000], torch.tensor([0.05, 0.95]))
            if high - low < 1e-3:
                alarms.append(Alarm(codes, owner(name), title="PoorWeightInitialization: distribution"))
    if len(seen.losses) > 5 and min(seen.losses[1:6]) >= seen.losses[0]:
        alarms.append(Alarm(codes, "", title="PoorWeightInitialization: loss"))
    return alarms


def _update_ratio(seen: Observation) -> list[Alarm]:
    alarms = []
    for name, before in seen.matrices().items():
        if seen.after:
            ratio = float((seen.after[0][name] - before).norm() / (before.norm() + 1e-9))
            if ratio > 10 or ratio < 1e-8:
                alarms.append(Alarm("FL601/FL404/FL405", owner(name), title="WeightUpdateRatio"))
    return alarms


def _unchanged(seen: Observation) -> list[Alarm]:
    if len(seen.after) < 3:
        return []
    same = [n for n, v in seen.weights.items() if torch.allclose(seen.after[2][n], v, rtol=1e-5, atol=1e-8)]
    return [Alarm("FL403/FL404/FL405/FL601", owner(name), title="UnchangedTensor") for name in same]


def _loss(seen: Observation) -> list[Alarm]:
    """A fall of less than 0.1 % in ten steps, or a rise by 5 %."""
    if len(seen.losses) < 10:
        return []
    first, last = seen.losses[0], seen.losses[-1]
    bad = last > first * 0.999 or last > first * 1.05
    return [Alarm("FL602/FL601", "loss", title="LossNotDecreasing")] if bad else []


def _images(seen: Observation) -> list[Alarm]:
    bad = abs(float(seen.setting.images.float().mean())) > 0.2
    return [Alarm("FL101/FL102/FL103", "input", title="CheckInputImages")] if bad else []


def _classes(seen: Observation) -> list[Alarm]:
    counts = seen.setting.declared.get("class_counts")
    bad = counts is not None and max(counts) > 10 * min(counts)
    return [Alarm("FL125", "labels", title="ClassImbalance")] if bad else []


def _units(value: torch.Tensor) -> torch.Tensor:
    """``[N, C, …]`` or ``[N, T, C]`` to ``[samples and positions, C]``."""
    return value.flatten(0, -2) if value.dim() == 3 else value.transpose(0, 1).flatten(1).t()
