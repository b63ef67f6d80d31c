"""What only sleeps wakes up in a few steps, what is broken does not; and the loop goes on through odd models."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from firstlight.errors import FirstlightError
from firstlight.graph import trace
from firstlight.models import small_cnn
from firstlight.probe import Run, run_steps

LABELS = torch.tensor([0, 1, 2, 3])


def images(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


def without_gradient(run: Run) -> list[int]:
    """Parameters whose gradient is zero everywhere, step by step."""
    return [sum(parameter.zero == 1 for parameter in step.parameters) for step in run.steps]


def test_residual_branches_that_start_at_zero_wake_up() -> None:
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    model = timm.create_model("resnet18", num_classes=4, zero_init_last=True)
    run = run_steps(model, images(4, 3, 64, 64), LABELS, histograms=False)
    assert without_gradient(run) == [32, 0, 0]
    assert run.last is not None
    asleep = {node.name for node in run.first.nodes if node.gradient_max == 0}
    assert {node.name for node in run.last.nodes} == asleep
    assert all((node.gradient_std or 0) > 0 for node in run.last.nodes)
    assert "layer1.0.conv1:conv2d" in asleep
    assert run.graph.operations == trace(model, images(4, 3, 64, 64)).operations


def test_a_network_that_starts_at_zero_stays_asleep() -> None:
    model = small_cnn(classes=4)
    for parameter in model.parameters():
        nn.init.zeros_(parameter)
    run = run_steps(model, images(4, 3, 32, 32), torch.tensor([0, 0, 0, 1]))
    assert without_gradient(run) == [13, 13, 13]  # all but the bias of the head
    assert run.last is not None
    assert all(node.gradient_max == 0 for node in run.last.nodes if node.name != "head:linear")


def test_a_healthy_network_needs_no_second_look() -> None:
    torch.manual_seed(0)
    run = run_steps(small_cnn(classes=4), images(4, 3, 32, 32), LABELS)
    assert without_gradient(run) == [0, 0, 0]
    assert run.last is None
    assert run.final_loss is not None
    assert run.final_loss < run.steps[0].loss


class Halves(nn.Module):
    """One half is cut off, one parameter is never used."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.unused = nn.Linear(8, 8), nn.Linear(8, 4), nn.Linear(2, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.two(self.one(x).detach())


def test_no_gradient_is_not_a_zero_gradient() -> None:
    model = Halves()
    model.two.bias.requires_grad_(False)
    run = run_steps(model, images(4, 8), LABELS)
    found = {p.name: (p.gradient is None, p.zero == 1, p.update > 0) for p in run.steps[0].parameters}
    absent, alive = (True, True, False), (False, False, True)
    assert found == {
        "one.weight": absent, "one.bias": absent, "two.weight": alive, "two.bias": absent, "unused.weight": absent,
        "unused.bias": absent,
    }  # fmt: skip
    assert run.frozen == ("two.bias",)
    assert run.last is not None
    assert [node.name for node in run.last.nodes if node.gradient_max is None] == ["one:linear"]


@pytest.mark.parametrize(
    ("loss", "note"),
    [
        (lambda y, t: F.cross_entropy(y.detach(), t), "the loss gives none a gradient"),
        (lambda y, t: torch.tensor(1.0), "the loss gives none a gradient"),
        (None, "none requires gradients"),
    ],
)
def test_what_cannot_learn_is_measured_once(loss: Any, note: str) -> None:
    model = nn.Sequential(nn.Linear(8, 4), nn.ReLU())
    model.requires_grad_(loss is not None)
    run = run_steps(model, images(4, 8), LABELS, loss)
    assert len(run.steps) == 1
    assert run.final_loss is None
    assert run.first.nodes[0].forward_std > 0
    assert note in run.notes[0]
    model = nn.Sequential(nn.ReLU(), nn.Flatten())  # no parameters at all
    assert "none requires gradients" in run_steps(model, images(4, 8), LABELS).notes[0]


def test_a_loss_that_is_no_number_is_recorded() -> None:
    run = run_steps(nn.Linear(8, 4), images(4, 8), LABELS, lambda y, t: F.cross_entropy(y, t) * float("nan"))
    assert [step.loss != step.loss for step in run.steps] == [True] * 3
    assert run.first.nodes[0].gradient_nonfinite == 16
    assert run.final_loss != run.final_loss


class Fickle(nn.Linear):
    """Runs a few times, then fails."""

    def __init__(self, times: int) -> None:
        super().__init__(8, 4)
        self.left = times

    def forward(self, x: Tensor) -> Tensor:
        self.left -= 1
        if self.left < 0:
            raise RuntimeError("tired")
        return super().forward(x)


@pytest.mark.parametrize("times", [1, 2, 3])
def test_what_fails_later_is_noted(times: int) -> None:
    run = run_steps(Fickle(times), images(4, 8), LABELS, mixing=False)
    assert len(run.steps) == times
    assert run.final_loss is None
    assert any(f"what follows step {times}: " in note and "tired" in note for note in run.notes)


@pytest.mark.parametrize(
    ("model", "loss", "slug"),
    [
        (Fickle(0), None, "model-does-not-run"),
        (nn.Linear(7, 4), None, "model-does-not-run"),
        (nn.Linear(8, 3), None, "loss-does-not-fit"),
        (nn.Linear(8, 4), lambda y, t: y, "loss-does-not-fit"),
    ],
)
def test_errors_say_whose_they_are(model: nn.Module, loss: Any, slug: str) -> None:
    with pytest.raises(FirstlightError) as caught:
        run_steps(model, images(4, 8), LABELS, loss)
    assert caught.value.slug == slug
    assert caught.value.call.startswith(("run_steps", "probe"))


def test_an_optimizer_that_cannot_step_is_replaced_and_said() -> None:
    model = nn.Linear(8, 4)
    run = run_steps(model, images(4, 8), LABELS, optimizer=torch.optim.LBFGS(model.parameters()))
    assert run.optimizer.name == "LBFGS"
    assert "closure" in run.notes[0]
    assert run.steps[0].parameters[0].update == pytest.approx(1e-4, rel=1e-3)
    failing = run_steps(model, images(4, 8), LABELS, optimizer=lambda parameters: 1 / 0)  # type: ignore[arg-type]
    assert (failing.optimizer.name, failing.optimizer.given) == ("Adam", False)
    assert "ZeroDivisionError" in failing.notes[0]


@pytest.mark.parametrize("name", ["Adagrad", "Adam", "AdamW", "Adamax", "NAdam", "RAdam", "RMSprop", "Rprop", "SGD"])
def test_twins_of_torchs_optimizers_step_like_them(name: str) -> None:
    model = nn.Linear(8, 4)
    make = getattr(torch.optim, name)
    given = make([{"params": [model.weight], "lr": 0.02}, {"params": [model.bias]}], lr=0.01)
    run = run_steps(model, images(4, 8), LABELS, optimizer=given)
    before = model.weight.detach().clone()
    F.cross_entropy(model(images(4, 8)), LABELS).backward()
    given.step()
    update = (model.weight.detach() - before).double().square().mean().sqrt().item()
    assert run.notes == ()
    assert run.steps[0].parameters[0].update == pytest.approx(update, rel=1e-3)
    assert run.optimizer.learning_rate == {"weight": 0.02, "bias": 0.01}


def test_sparse_gradients() -> None:
    class Words(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding = nn.Embedding(10, 4, sparse=True)

        def forward(self, x: Tensor) -> Tensor:
            return self.embedding(x).mean(1)

    x = torch.tensor([[0, 1], [2, 3], [0, 2], [1, 1]])
    run = run_steps(Words(), x, LABELS, optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.1))
    assert run.steps[0].parameters[0].zero == pytest.approx(0.6)  # words 4 to 9 do not occur
    assert run.notes == ()
    assert "made by nobody" in run_steps(Words(), x, LABELS).notes[0]  # Adam takes no sparse gradients


def test_hooks_of_the_user_run_and_see_gradients() -> None:
    model, seen = nn.Sequential(nn.Linear(8, 8), nn.ReLU(inplace=True), nn.Linear(8, 4)), []
    model[0].register_forward_hook(lambda module, args, output: output * 2)
    model[2].register_full_backward_hook(lambda *_: seen.append(1))
    run = run_steps(model, images(4, 8), LABELS, mixing=False)
    assert len(seen) == 3
    assert [node.op for node in run.first.nodes] == ["linear", "mul", "relu_", "linear"]
