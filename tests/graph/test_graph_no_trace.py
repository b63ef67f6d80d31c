"""Looking at a model leaves it, and every random generator, exactly as it was."""

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from zoo_of_graphs import EXPORTED, IMAGES, Stubborn, ValueDependent, example, plain

from firstlight.errors import FirstlightError
from firstlight.graph import trace, untouched


def state(model: nn.Module) -> dict[str, Any]:
    """Everything about a model that a look at it could change."""
    found: dict[str, Any] = {}
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        grad = tensor.grad
        found[name] = (id(tensor), tensor.data_ptr(), tensor.detach().clone(), tensor.requires_grad)
        found[name + "/grad"] = (id(grad), None if grad is None else grad.clone())
        found[name + "/hooks"] = list(tensor._backward_hooks or {})
    for name, module in model.named_modules():
        found[name + "/training"] = module.training
        for registry in ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks", "_modules"):
            found[f"{name}/{registry}"] = (id(getattr(module, registry)), list(getattr(module, registry).items()))
        found[name + "/attributes"] = sorted(module.__dict__)
        found[name + "/count"] = getattr(module, "count", None)
    found["torch"], found["python"] = torch.get_rng_state(), random.getstate()
    found["numpy"] = np.random.get_state()  # noqa: NPY002
    return found


def same(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor):
        return torch.equal(one, other)
    if isinstance(one, np.ndarray):
        return np.array_equal(one, other)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)


def assert_untouched(model: nn.Module, look: Callable[[], object]) -> None:
    before = state(model)
    look()
    after = state(model)
    assert before.keys() == after.keys()
    assert [key for key in before if not same(before[key], after[key])] == []


def lived_in(model: nn.Module) -> nn.Module:
    """A model as one finds it in the middle of work: mixed modes, gradients, hooks, frozen parts."""
    model.eval()
    children = list(model.children())
    children[-1].train()
    parameters = list(model.parameters())
    parameters[0].requires_grad_(False)
    parameters[-1].grad = torch.full_like(parameters[-1], 3.0)
    parameters[-1].register_hook(lambda grad: grad)
    children[0].register_forward_hook(lambda *_: None)
    children[0].count = 5
    return model


@pytest.mark.parametrize("name", EXPORTED)
def test_exporting(name: str) -> None:
    build, shape = EXPORTED[name]
    model = lived_in(build())
    assert_untouched(model, lambda: trace(model, example(shape)))


def test_recording() -> None:
    model = lived_in(ValueDependent())
    assert_untouched(model, lambda: trace(model, example(IMAGES)))


def test_exporting_with_fake_tensors() -> None:
    model = Stubborn().eval()
    held = model.held
    assert_untouched(model, lambda: trace(model, torch.ones(2, 8)))
    assert model.held is held
    assert torch.equal(held, torch.ones(8))


class Restless(nn.Module):
    """Changes everything it can about itself, then fails where asked to."""

    def __init__(self, fails: bool) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(4)
        self.linear = nn.Linear(4, 4)
        self.count, self.fails, self.log = 0, fails, ["made"]

    def forward(self, x: Tensor) -> Tensor:
        self.count += 1
        self.log.append("called")
        self.extra = x
        self.linear.eval()
        self.linear.register_forward_hook(lambda *_: None)
        x = self.linear(self.norm(x)) + torch.rand(4) + random.random() + np.random.rand()  # noqa: NPY002
        with torch.no_grad():
            self.linear.weight.mul_(2)
            self.linear.weight.grad = torch.ones(4, 4)
            self.linear.bias.data = torch.ones(4)
        self.linear.bias.requires_grad_(False)
        if float(x.detach().sum()) > -1e9 and self.fails:
            raise ValueError("no further")
        return x


@pytest.mark.parametrize("fails", [False, True])
def test_a_model_that_changes_itself(fails: bool) -> None:
    model = Restless(fails)
    log = model.log

    def look() -> None:
        if fails:
            with pytest.raises(FirstlightError, match="no further"):
                trace(model, torch.randn(3, 4, generator=torch.Generator().manual_seed(0)))
        else:
            trace(model, torch.randn(3, 4, generator=torch.Generator().manual_seed(0)))

    assert_untouched(model, look)
    assert model.log is log
    assert log == ["made"]


def test_untouched_restores_after_an_error_and_lets_it_pass() -> None:
    model = lived_in(plain())

    def run_and_fail() -> None:
        with untouched(model):
            model.train()(example(IMAGES)).sum().backward()
            model.head.bias.register_hook(lambda grad: grad)
            model.conv = nn.Conv2d(3, 8, 1)
            torch.rand(3)
            raise KeyError

    def look() -> None:
        with pytest.raises(KeyError):
            run_and_fail()

    assert_untouched(model, look)


def test_handles_of_hooks_still_work_afterwards() -> None:
    model = nn.Linear(2, 2)
    handle = model.register_forward_hook(lambda *_: None)
    with untouched(model):
        model.register_forward_hook(lambda *_: None)
    assert len(model._forward_hooks) == 1
    handle.remove()
    assert not model._forward_hooks


def test_no_global_hook_stays() -> None:
    import torch.nn.modules.module as module

    with pytest.raises(FirstlightError):
        trace(Restless(True), torch.ones(3, 4))
    assert not module._global_forward_hooks
    assert not module._global_forward_pre_hooks
    assert not torch.utils._python_dispatch._get_current_dispatch_mode_stack()
