"""What the peers' rules look at: some steps of ordinary training, with every module's input and output in the first."""

import copy
from dataclasses import dataclass, field
from functools import lru_cache

from torch import Tensor, nn

from faults.setting import Setting

STEPS = 10  # what the longest of the rules looks at
RELU = (nn.ReLU, nn.ReLU6)
SATURATING = (nn.Tanh, nn.Sigmoid)


@dataclass
class Observation:
    """Tensors are detached copies.

    Attributes:
        setting: what was observed, untouched.
        inputs: of every module without children, in the first step, by name.
        outputs: the same.
        gradients: of every parameter in the first step; without those that got none.
        weights: parameters before the first step, by name.
        after: parameters after each step.
        losses: before each step.
        output: of the model in the first step.
        cut: the reason why training stopped early; "" when it did not.
    """

    setting: Setting
    inputs: dict[str, Tensor] = field(default_factory=dict)
    outputs: dict[str, Tensor] = field(default_factory=dict)
    gradients: dict[str, Tensor] = field(default_factory=dict)
    weights: dict[str, Tensor] = field(default_factory=dict)
    after: list[dict[str, Tensor]] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    output: Tensor | None = None
    cut: str = ""

    def modules(self, *kinds: type[nn.Module]) -> list[str]:
        """Names of the modules of these kinds that ran."""
        return [n for n, m in self.setting.model.named_modules() if isinstance(m, kinds) and n in self.outputs]

    def matrices(self) -> dict[str, Tensor]:
        """Weights of layers, without biases and gains of normalizations."""
        return {name: value for name, value in self.weights.items() if value.dim() > 1}


@lru_cache(maxsize=4)  # the rules of all peers look at the same fault and the same twin in turn
def observe(setting: Setting) -> Observation:
    """Train a copy for some steps. What PyTorch itself refuses to run ends it early, and is no rule's merit."""
    model, optimizer = copy.deepcopy((setting.model, setting.optimizer))
    seen = Observation(setting, weights=_copied(dict(model.named_parameters())))
    hooks = [
        module.register_forward_hook(lambda _, x, y, name=name: _keep(seen, name, x[0], y))
        for name, module in model.named_modules()
        if not list(module.children())
    ]
    try:
        for step in range(STEPS):
            optimizer.zero_grad()
            output = model(setting.images)
            loss = setting.loss(output, setting.labels)
            loss.backward()
            if step == 0:
                seen.output = output.detach()
                seen.gradients = _copied({n: p.grad for n, p in model.named_parameters() if p.grad is not None})
                for hook in hooks:
                    hook.remove()
            optimizer.step()
            seen.losses.append(float(loss.detach()))
            seen.after.append(_copied(dict(model.named_parameters())))
    except (RuntimeError, IndexError) as error:
        seen.cut = str(error)
    return seen


def _keep(seen: Observation, name: str, given: Tensor, result: Tensor) -> None:
    if isinstance(given, Tensor) and isinstance(result, Tensor):
        seen.inputs[name], seen.outputs[name] = given.detach(), result.detach()


def _copied(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in tensors.items()}


def owner(parameter: str) -> str:
    """The module of a parameter."""
    return parameter.rpartition(".")[0]
