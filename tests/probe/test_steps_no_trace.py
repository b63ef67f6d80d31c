"""Whatever happens in measured steps, the model, the loss, the batch, the optimizer and chance are as before."""

import copy
import random
import warnings
from collections import deque
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from firstlight.errors import FirstlightError
from firstlight.probe import run_steps


class Lived(nn.Module):
    """A model in the middle of work, that changes everything it can about itself and fails where it is asked to."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.drop = nn.BatchNorm1d(4), nn.Dropout(0.5)
        self.first, self.second, self.frozen = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4)
        self.register_buffer("scale", torch.ones(4))
        self.fails = ""
        self.count, self.log, self.seen = 0, ["made"], deque([1], maxlen=3)
        self.nested: dict[str, Any] = {"list": [torch.zeros(2), {"deep": [1]}], "array": np.zeros(3)}
        self.zero = torch.zeros(2)
        # As one finds it: mixed modes, a frozen layer, gradients, hooks.
        self.eval()
        self.drop.train()
        self.frozen.requires_grad_(False)
        self.first.weight.grad = torch.full((4, 4), 3.0)
        self.first.weight.register_hook(lambda gradient: gradient * 1.0)
        self.second.register_forward_hook(lambda *_: None)
        self.second.register_full_backward_hook(lambda *_: None)
        self.second.bias.register_post_accumulate_grad_hook(lambda _: None)

    def forward(self, x: Tensor) -> Tensor:
        self.count += 1
        self.log.append("ran")
        self.seen.append(self.count)
        self.nested["list"][0].add_(1)
        self.nested["list"][1]["deep"].append(2)
        self.nested["array"] += 1
        self.nested["new"] = 1
        self.zero[0] = -0.0
        self.extra = self.extra + 1 if self.count > 1 else 0
        self.scale = self.scale * 0.9
        self.first.register_forward_hook(lambda *_: None)
        self.second.weight.register_hook(lambda gradient: gradient)
        self.second.weight.register_post_accumulate_grad_hook(lambda _: None)
        x.add_(random.random() + np.random.rand())  # noqa: NPY002
        if self.fails == "forward" and self.count > 1:
            raise ValueError("no further")
        y = self.second(F.relu(self.first(self.drop(self.norm(x))), inplace=True)) + self.frozen(x)
        if self.fails == "backward":
            y.register_hook(_raise)
        if self.fails == "interrupt" and self.training and self.count > 2:
            raise KeyboardInterrupt
        return y * self.scale


def _raise(gradient: Tensor) -> None:
    raise ValueError("no gradient")


def state(*modules: nn.Module) -> dict[str, Any]:
    """Everything that could change, by value and by identity."""
    found: dict[str, Any] = {"torch": torch.get_rng_state(), "python": random.getstate()}
    found["numpy"] = np.random.get_state()  # noqa: NPY002
    for module in (module for whole in modules for module in whole.modules()):
        key = f"{type(module).__name__} {id(module)}"
        found[key] = sorted(module.__dict__), copy.deepcopy({k: v for k, v in vars(module).items() if k in _PLAIN})
        found[key + " identity"] = [(k, id(v)) for k, v in vars(module).items()]
        found[key + " hooks"] = [(k, list(v)) for k, v in vars(module).items() if k.endswith("_hooks")]
        for name, tensor in [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]:
            bits = tensor.detach().clone()
            found[f"{key} {name}"] = id(tensor), tensor.data_ptr(), bits, tensor.requires_grad
            found[f"{key} {name} gradient"] = (
                id(tensor.grad),
                tensor.grad if tensor.grad is None else tensor.grad.clone(),
            )
            found[f"{key} {name} hooks"] = (
                list(tensor._backward_hooks or {}),
                list(tensor._post_accumulate_grad_hooks or {}),
            )
    return found


_PLAIN = {"training", "fails", "count", "log", "seen", "nested", "zero", "_modules_order"}


def same(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor):
        return same(one.numpy().tobytes(), other.numpy().tobytes())
    if isinstance(one, np.ndarray):
        return np.array_equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple | deque):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)


class Learned(nn.Module):
    """A loss with a parameter of its own."""

    def __init__(self, fails: bool) -> None:
        super().__init__()
        self.temperature, self.fails = nn.Parameter(torch.ones(())), fails

    def forward(self, output: Tensor, labels: Tensor) -> Tensor:
        if self.fails:
            raise RuntimeError("no loss")
        return F.cross_entropy(output * self.temperature, labels)


@pytest.mark.parametrize(
    ("fails", "raised"),
    [("", None), ("loss", FirstlightError), ("forward", FirstlightError), ("backward", FirstlightError),
     ("interrupt", KeyboardInterrupt)],
)  # fmt: skip
def test_nothing_changes(fails: str, raised: type[BaseException] | None) -> None:
    torch.manual_seed(0)
    model, loss, other = Lived(), Learned(fails == "loss"), nn.Linear(2, 2)
    model.fails = fails
    other.weight.grad = torch.ones(2, 2)
    x, labels = torch.randn(6, 4), torch.arange(6) % 4
    given = [x.clone(), labels.clone()]
    groups = [{"params": [model.first.weight, other.weight], "lr": torch.tensor(0.1)}, {"params": model.second.bias}]
    optimizer = torch.optim.AdamW(groups, lr=0.2, weight_decay=0.3)
    torch.optim.lr_scheduler.StepLR(optimizer, 1)  # patches `step`
    settings, patched = copy.deepcopy(optimizer.state_dict()), optimizer.step
    before, steps = state(model, loss, other), getattr(optimizer, "_step_count", None)
    held = [[id(p) for p in group["params"]] for group in optimizer.param_groups]

    def run() -> Any:
        return run_steps(model, x, labels, loss, optimizer=optimizer)

    if raised is None:
        found = run()
        assert found.optimizer.strangers == 1
        assert found.steps[0].parameters[2].update > 0
    else:
        with pytest.raises(raised):
            run()
    after = state(model, loss, other)
    assert before.keys() == after.keys()
    assert [key for key in before if not same(before[key], after[key])] == []
    assert torch.equal(x, given[0])
    assert torch.equal(labels, given[1])
    assert not optimizer.state
    assert same(optimizer.state_dict(), settings)
    assert [[id(p) for p in group["params"]] for group in optimizer.param_groups] == held
    assert (optimizer.step, getattr(optimizer, "_step_count", None)) == (patched, steps)


def test_an_optimizer_in_the_middle_of_work_keeps_its_state() -> None:
    model, x = nn.Linear(4, 4), torch.randn(6, 4)
    optimizer = torch.optim.Adam(model.parameters())
    model(x).sum().backward()
    optimizer.step()
    before = copy.deepcopy(optimizer.state_dict())
    run_steps(model, x, torch.arange(6) % 4, optimizer=optimizer)
    assert same(optimizer.state_dict(), before)


class Wrapping(torch.optim.Optimizer):
    """Cannot be built from groups alone, and keeps another optimizer."""

    def __init__(self, base: torch.optim.Optimizer) -> None:
        super().__init__(base.param_groups, {})
        self.base = base

    def step(self, closure: Any = None) -> None:
        self.base.step()


def test_a_wrapped_optimizer_steps_as_a_copy() -> None:
    model, x = nn.Linear(4, 4), torch.randn(6, 4)
    base = torch.optim.SGD(model.parameters(), lr=0.5, momentum=0.9)
    run = run_steps(model, x, torch.arange(6) % 4, optimizer=Wrapping(base))
    assert run.notes == ()
    assert run.optimizer.name == "Wrapping"
    assert run.steps[0].parameters[0].update == pytest.approx(
        0.5 * (run.steps[0].parameters[0].gradient or 0), rel=1e-4
    )
    assert not base.state


@pytest.mark.parametrize("loss", [nn.MSELoss(), None])
def test_no_warning_reaches_the_user(loss: Callable[..., Tensor] | None) -> None:
    def noisy(output: Tensor, labels: Tensor) -> Tensor:
        warnings.warn("of the loss", stacklevel=1)
        return F.mse_loss(output, labels)  # warns that it broadcasts

    model = nn.Linear(4, 1)
    filters = list(warnings.filters)
    run_steps(model, torch.randn(6, 4), torch.randn(6), loss and noisy)  # warnings are errors in these tests
    assert list(warnings.filters) == filters
