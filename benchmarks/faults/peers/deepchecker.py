"""TheDeepChecker's checks before training and on its first steps, at their default thresholds.

Source: Ben Braiek and Khomh, "Testing feedforward neural networks training programs", TOSEM 2022 (arXiv 2204.00694),
and the settings of its published program. Its run of a thousand iterations on one batch is left out: it is training.
"""

import math

import torch
from torch import nn

from faults.peers.observation import RELU, SATURATING, Observation, observe, owner
from faults.peers.sagemaker import _units
from faults.score import Alarm
from faults.setting import Setting


def deepchecker(setting: Setting) -> list[Alarm]:
    """Alarms before training and over ten steps."""
    seen = observe(setting)
    before = (_data, _balance, _weights, _biases, _start, _reduction)
    during = (_dead, _saturation, _range, _gradients, _update)
    return [alarm for rule in before + during for alarm in rule(seen)]


def _data(seen: Observation) -> list[Alarm]:
    x = seen.setting.images.double()
    if bool((x.flatten(1).std(0) == 0).any()):
        return [Alarm("FL107/FL108/FL109", "input", title="constant feature")]
    low, high, mean, std = (float(v) for v in (x.min(), x.max(), x.mean(), x.std()))
    ranged = abs(high - 1) < 0.01 and min(abs(low), abs(low + 1)) < 0.01
    standard = abs(mean) < 0.01 and abs(std - 1) < 0.01
    return [] if ranged or standard else [Alarm("FL101/FL102/FL103/FL106", "input", title="unnormalized features")]


def _balance(seen: Observation) -> list[Alarm]:
    """Perplexity of the labels over the number of classes below one half."""
    counts = seen.setting.declared.get("class_counts")
    if counts is None:
        return []
    shares = torch.tensor(counts, dtype=torch.float64) / sum(counts)
    perplexity = math.exp(-float((shares * shares.log()).sum())) / len(counts)
    return [Alarm("FL125", "labels", title="unbalanced labels")] if perplexity < 0.5 else []


def _weights(seen: Observation) -> list[Alarm]:
    """Variance near zero, or 2.70554 times away from He's, Glorot's or LeCun's, fans as without groups."""
    alarms = []
    activation = RELU if seen.modules(*RELU) else SATURATING
    for name, weight in seen.matrices().items():
        variance = float(weight.var())
        if variance <= 1e-8:
            alarms.append(Alarm("FL201/FL202/FL203", owner(name), title="unbreaking symmetry"))
            continue
        if not isinstance(seen.setting.model.get_submodule(owner(name)), nn.Linear | nn.Conv2d):
            continue
        fan_in = weight[0].numel()
        fan_out = weight.shape[0] * weight[0][0].numel()
        wanted = 2 / fan_in if activation is RELU else 2 / (fan_in + fan_out)
        if owner(name) == "head":
            wanted = 2 / (fan_in + fan_out)
        if max(variance / wanted, wanted / variance) > 2.70554:
            alarms.append(Alarm("FL206/FL301/FL302", owner(name), title="unsuitable variance of weights"))
    return alarms


def _biases(seen: Observation) -> list[Alarm]:
    alarms = []
    for name, value in seen.weights.items():
        if name.endswith("bias") and float(value.sum().abs()) > 1e-8:
            alarms.append(Alarm("FL304/FL506", owner(name), title="biases do not sum to zero"))
    counts = seen.setting.declared.get("class_counts")
    if counts is not None and max(counts) > 2 * min(counts) and "head.bias" in seen.weights:
        bias = seen.weights["head.bias"]
        if not torch.equal(bias.argsort(), torch.tensor(counts).argsort()) or float(bias.std()) == 0:
            alarms.append(Alarm("FL506/FL501", "head", title="last bias does not rank as the labels"))
    return alarms


def _start(seen: Observation) -> list[Alarm]:
    if seen.output is None:
        return []
    wanted = math.log(seen.output.shape[1] if seen.setting.labels.dim() == 1 else 2)
    if seen.losses and not abs(seen.losses[0] - wanted) < wanted:
        return [Alarm("FL501/FL502/FL503/FL505", "loss", title="unstable initial loss")]
    return []


def _reduction(seen: Observation) -> list[Alarm]:
    """A loss that grows with copies of the batch."""
    setting = seen.setting
    if seen.output is None:
        return []
    once, twice = (float(setting.loss(seen.output.repeat(k, 1), torch.cat([setting.labels] * k))) for k in (1, 2))
    return [Alarm("FL505", "loss", title="loss is a sum")] if twice > 1.5 * abs(once) else []


def _dead(seen: Observation) -> list[Alarm]:
    alarms = []
    for name in seen.modules(*RELU):
        values = _units(seen.outputs[name])
        top = torch.quantile(values[:20_000], 0.95, dim=0)
        if (top < 1e-5).float().mean() > 0.5:
            alarms.append(Alarm("FL304", name, title="dead layer"))
    return alarms


def _saturation(seen: Observation) -> list[Alarm]:
    """Rakitianskaia's measure over 0.85 in more than half of the units."""
    alarms = []
    for name in seen.modules(*SATURATING):
        values = _units(seen.outputs[name])
        if isinstance(seen.setting.model.get_submodule(name), nn.Sigmoid):
            values = 2 * values - 1
        if (values.abs().mean(0) > 0.85).float().mean() > 0.5:
            alarms.append(Alarm("FL303", name, title="saturated layer"))
    return alarms


def _range(seen: Observation) -> list[Alarm]:
    stds = {name: float(seen.outputs[name].std()) for name in seen.modules(*RELU, *SATURATING, nn.GELU)}
    bad = [name for name, std in stds.items() if not 0.5 <= std <= 2.0]
    return [Alarm("FL301/FL302", name, title="activations out of range") for name in bad]


def _gradients(seen: Observation) -> list[Alarm]:
    alarms = []
    for name, gradient in seen.gradients.items():
        size = float(gradient.abs().mean())
        if size < 1e-6:
            alarms.append(Alarm("FL301/FL401/FL403", owner(name), title="vanishing gradient"))
        elif not size <= 1e6:
            alarms.append(Alarm("FL302/FL402/FL407/FL308/FL110", owner(name), title="exploding gradient"))
    return alarms


def _update(seen: Observation) -> list[Alarm]:
    alarms = []
    for name, before in seen.matrices().items():
        if seen.after and float(before.abs().mean()) > 0:
            ratio = float((seen.after[0][name] - before).abs().mean() / before.abs().mean())
            if not 1e-4 <= ratio <= 1e-1:
                alarms.append(Alarm("FL601/FL404/FL405/FL602", owner(name), title="update ratio"))
    return alarms
