"""What a probe says is what a manual forward and backward pass gives."""

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from firstlight.errors import FirstlightError
from firstlight.graph import trace
from firstlight.models import open_model, small_cnn
from firstlight.probe import Measurements, probe


def batch(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


def network() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 6, 3, stride=2),
        nn.Tanh(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(6, 4),
    )


def by_hand(model: nn.Module, x: Tensor, labels: Tensor) -> tuple[dict[str, Tensor], float]:
    """Outputs of the leaf modules with their gradients, by the usual hooks."""
    outputs: dict[str, Tensor] = {}

    def keep(name: str) -> Any:
        def hook(module: nn.Module, args: Any, output: Tensor) -> None:
            output.retain_grad()
            outputs[name] = output

        return hook

    handles = [module.register_forward_hook(keep(name)) for name, module in model.named_children()]
    loss = F.cross_entropy(model(x), labels)
    loss.backward()
    for handle in handles:
        handle.remove()
    return outputs, loss.item()


def test_a_plain_network_measures_as_by_hand() -> None:
    model, x, labels = network(), batch(5, 3, 9, 9), torch.tensor([0, 1, 2, 3, 0])
    measured = probe(model, x, labels)
    outputs, loss = by_hand(model.train(), x, labels)
    assert measured.loss == pytest.approx(loss, rel=1e-6)
    assert measured.loss_kind == "cross-entropy"
    assert [node.module for node in measured.nodes] == [name for name in outputs if name != "6"]  # flatten rearranges
    for node in measured.nodes:
        output = outputs[node.module].detach()
        gradient = outputs[node.module].grad
        assert gradient is not None
        assert node.shape == tuple(output.shape)
        assert node.forward_mean == pytest.approx(output.double().mean().item(), abs=1e-6)
        assert node.forward_std == pytest.approx(output.double().std(correction=0).item(), rel=1e-5)
        assert node.gradient_std == pytest.approx(gradient.double().std(correction=0).item(), rel=1e-4)
        assert node.fraction_zero == pytest.approx((output == 0).double().mean().item())
        assert node.nonfinite == node.gradient_nonfinite == 0
    for parameter in measured.parameters:
        gradient = model.get_parameter(parameter.name).grad
        assert gradient is not None
        assert parameter.gradient_std == pytest.approx(gradient.double().std(correction=0).item(), rel=1e-4, abs=1e-9)


class InPlace(nn.Module):
    def __init__(self, in_place: bool) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(6, 6), nn.Linear(6, 6)
        self.relu = nn.ReLU(inplace=in_place)
        self.in_place = in_place

    def forward(self, x: Tensor) -> Tensor:
        y = self.one(x)
        if self.in_place:
            y += 1
            y.mul_(2)
        else:
            y = (y + 1) * 2
        return self.relu(self.two(self.relu(y)))


def test_in_place_operations_do_not_change_what_was_measured() -> None:
    measured = []
    for in_place in (True, False):
        torch.manual_seed(0)
        measured.append(probe(InPlace(in_place), batch(4, 6)))
    functions = [[node.op.rstrip("_") for node in m.nodes] for m in measured]
    assert functions[0] == functions[1] == ["linear", "add", "mul", "relu", "linear", "relu"]
    for one, other in zip(measured[0].nodes, measured[1].nodes, strict=True):
        assert (one.forward_mean, one.forward_std, one.gradient_std) == (
            other.forward_mean, other.forward_std, other.gradient_std,
        )  # fmt: skip


def test_a_model_whose_backward_pass_fails_is_an_error() -> None:
    class Overwrites(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(6, 6)

        def forward(self, x: Tensor) -> Tensor:
            y = torch.relu(self.linear(x))
            y += 1  # autograd needs what was there
            return y

    with pytest.raises(FirstlightError, match="inplace operation") as caught:
        probe(Overwrites(), batch(4, 6))
    assert caught.value.slug == "model-does-not-run"


def test_dead_and_broken_values_are_counted() -> None:
    class Broken(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            x = torch.relu(self.linear(x) - 1e6)
            return x + torch.tensor([math.inf, 0.0, math.nan, 0.0])

    nodes = {node.name: node for node in probe(Broken(), batch(3, 4)).nodes}
    assert nodes["relu"].fraction_zero == 1
    assert nodes["relu"].nonfinite == 0
    assert nodes["add"].nonfinite == 6
    assert math.isnan(nodes["add"].forward_std)
    assert nodes["linear:linear"].gradient_std == 0


class Branching(nn.Module):
    """Runs one of two layers, as the values decide; only a real run can tell."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.up, self.down = nn.Linear(4, 3), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu_(self.conv(x)).mean((2, 3))
        return self.up(x) if x.sum() > 0.5 else self.down(x)


def test_a_model_that_only_a_run_can_trace() -> None:
    model, x = Branching(), batch(2, 3, 6, 6)
    graph = trace(model, x)
    assert graph.how.startswith("recorded")
    nn.init.constant_(model.conv.bias, 10.0)
    high = probe(model, x, torch.tensor([0, 2]))
    nn.init.constant_(model.conv.bias, -10.0)
    low = probe(model, x, torch.tensor([0, 2]), graph=trace(model, x))
    assert [node.name for node in high.nodes][-1] == "up:linear"
    assert [node.name for node in low.nodes][-1] == "down:linear"
    assert low.missing == ()
    assert probe(model, x + 1e3, graph=trace(model, x)).missing in ((), ("down:linear",))


def test_operations_the_batch_did_not_run_are_named() -> None:
    model, x = Branching(), batch(2, 3, 6, 6)
    nn.init.constant_(model.conv.bias, 10.0)
    graph = trace(model, x)
    nn.init.constant_(model.conv.bias, -10.0)
    assert probe(model, x, graph=graph).missing == ("up:linear",)


def test_nodes_are_those_of_the_graph() -> None:
    model, x = small_cnn(), batch(2, 3, 32, 32)
    graph = trace(model, x)
    measured = probe(model, x, graph=graph)
    assert measured.missing == ()
    assert [node.name for node in measured.nodes] == [n.name for n in graph.operations if n.op != "flatten"]


def test_losses() -> None:
    model, x = nn.Linear(4, 3), batch(5, 4)
    labels = torch.tensor([0, 1, 2, 0, 1])
    y = model(x).detach()
    assert probe(model, x, labels).loss == pytest.approx(F.cross_entropy(y, labels).item())
    assert probe(model, x, labels.float()[:, None]).loss_kind.startswith("surrogate: ")
    own = probe(model, x, torch.ones(5, 3), nn.MSELoss())
    assert (own.loss, own.loss_kind) == (pytest.approx(F.mse_loss(y, torch.ones(5, 3)).item()), "MSELoss")
    without_labels = probe(model, x, loss=lambda output: output.square().mean())
    assert without_labels.loss == pytest.approx(y.square().mean().item())


def test_the_surrogate_is_fixed_and_reaches_every_output() -> None:
    model, x = nn.Linear(4, 3), batch(5, 4)
    one, two = probe(model, x), probe(model, x)
    assert one == two
    assert (one.nodes[0].gradient_std or 0) > 0


def test_segmentation_logits_and_several_heads() -> None:
    class Heads(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.other = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 4, 1)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return self.conv(x), self.other(x)

    measured = probe(Heads(), batch(2, 3, 5, 5), torch.zeros(2, 5, 5, dtype=torch.long))
    assert measured.loss_kind == "cross-entropy, summed over 2 outputs"
    assert all(node.gradient_std for node in measured.nodes)


def test_a_model_that_returns_its_losses() -> None:
    class Detector(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(4, 2)

        def forward(self, images: list[Tensor], targets: list[dict[str, Tensor]]) -> dict[str, Tensor]:
            y = self.linear(torch.stack(images)) - torch.stack([target["box"] for target in targets])
            return {"size": y[:, 0].square().mean(), "place": y[:, 1].abs().mean()}

    arguments = ([torch.ones(4), torch.zeros(4)], [{"box": torch.ones(2)}, {"box": torch.zeros(2)}])
    measured = probe(Detector(), arguments)
    assert measured.loss_kind == "sum of the model's own losses"
    assert measured.parameters[0].gradient_std is not None


def test_the_pass_is_in_train_mode_and_old_gradients_do_not_count() -> None:
    model, x = nn.Sequential(nn.Dropout(0.5), nn.Linear(64, 3)).eval(), batch(5, 64)
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, 1e3)
    measured = probe(model, x)
    assert measured.nodes[0].fraction_zero == pytest.approx(0.5, abs=0.1)
    fresh = nn.Sequential(nn.Dropout(0.0), nn.Linear(64, 3))
    fresh.load_state_dict(model.state_dict())
    dropped = nn.Sequential(nn.Dropout(0.0), model[1]).eval()
    assert probe(dropped, x) == probe(fresh, x)
    assert model[1].bias.grad.unique().item() == 1e3


def test_a_part_that_nothing_uses_gets_no_gradient() -> None:
    class Parts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(8, 12), nn.Linear(4, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.b(self.a(x).chunk(3, 1)[0])

    found = probe(Parts(), torch.randn(6, 8), loss=torch.Tensor.sum)
    assert all(node.gradient_std is not None for node in found.nodes if node.op == "linear")


def test_frozen_parameters_have_no_gradient() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))
    model[0].requires_grad_(False)
    measured = probe(model, batch(3, 4))
    assert [parameter.gradient_std is None for parameter in measured.parameters] == [True, True, False, False]
    assert [node.gradient_std is None for node in measured.nodes] == [True, True, False]
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    assert all(node.gradient_std is None for node in probe(model, batch(3, 4)).nodes)


@pytest.mark.parametrize("half", [torch.float16, torch.bfloat16, torch.float64])
def test_other_element_types(half: torch.dtype) -> None:
    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 4)).to(half)
    reference = probe(model.float(), batch(32, 64), torch.arange(32) % 4)
    measured = probe(model.to(half), batch(32, 64).to(half), torch.arange(32) % 4)
    for one, other in zip(measured.nodes, reference.nodes, strict=True):
        assert one.forward_std == pytest.approx(other.forward_std, rel=0.02)
        assert one.gradient_std == pytest.approx(other.gradient_std, rel=0.05)


@pytest.mark.parametrize(
    ("arguments", "slug"),
    [
        ((batch(3, 5),), "model-does-not-run"),
        ((batch(3, 4), torch.tensor([0, 1, 99])), "loss-does-not-fit"),
        ((batch(3, 4), None, lambda y: y), "loss-does-not-fit"),
        ((batch(3, 4), None, lambda y: 3.0), "loss-does-not-fit"),
    ],
)
def test_errors_leave_no_trace_and_say_what_to_do(arguments: tuple[Any, ...], slug: str) -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Dropout()).eval()
    model[0].weight.grad = torch.ones(4, 4)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    random = torch.get_rng_state()
    with pytest.raises(FirstlightError) as caught:
        probe(model, *arguments)
    assert caught.value.slug == slug
    assert not any(module.training for module in model.modules())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random)
    assert torch.equal(model[0].weight.grad, torch.ones(4, 4))
    assert model[0].bias.grad is None


def test_a_probe_leaves_no_trace() -> None:
    model = network().eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    random = torch.get_rng_state()
    probe(model, batch(5, 3, 9, 9), torch.tensor([0, 1, 2, 3, 0]))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not any(module.training for module in model.modules())
    assert not any(module._forward_hooks or parameter._backward_hooks
                   for module in model.modules() for parameter in module.parameters())  # fmt: skip
    assert torch.equal(torch.get_rng_state(), random)


def check_zoo(model: nn.Module, size: int) -> Measurements:
    x, labels = batch(2, 3, size, size), torch.tensor([1, 2])
    graph = trace(model, x)
    measured = probe(model, x, labels, graph=graph)
    assert measured.missing == ()
    assert measured.loss_kind == "cross-entropy"
    assert all(parameter.gradient_std is not None for parameter in measured.parameters)
    assert all(math.isfinite(node.forward_std) for node in measured.nodes)
    return measured


@pytest.mark.parametrize(("name", "size"), [("timm:resnet18", 64), ("torchvision:mobilenet_v3_small", 64)])
def test_convolutional_networks_of_the_zoo(name: str, size: int) -> None:
    pytest.importorskip(name.split(":")[0])
    measured = check_zoo(open_model(name), size)
    norms = [node for node in measured.nodes if node.op == "batch_norm"]
    assert len(norms) > 15
    assert norms[0].forward_std == pytest.approx(1, abs=0.1)


def test_a_vision_transformer_of_the_zoo() -> None:
    pytest.importorskip("timm")
    measured = check_zoo(open_model("timm:vit_tiny_patch16_224"), 224)
    assert sum(node.op == "gelu" for node in measured.nodes) == 12
