"""Both ways of tracing give the same, complete graph."""

import logging

import pytest
import torch
from torch import nn
from zoo_of_graphs import (
    EXPORTED,
    IMAGES,
    TOKENS,
    Attention,
    Functional,
    Lines,
    Parametrized,
    Reused,
    Stubborn,
    ValueDependent,
    Written,
    example,
    plain,
)

from firstlight.errors import FirstlightError
from firstlight.graph import Graph, record, trace, untouched
from firstlight.graph.export import export


def recorded(model: nn.Module, *args: torch.Tensor) -> Graph:
    with untouched(model):
        model.train()
        return record(model, args, {}, how="test").graph


@pytest.mark.parametrize("name", EXPORTED)
def test_all_ways_give_the_same_nodes(name: str) -> None:
    build, shape = EXPORTED[name]
    model = build()
    graph = trace(model, example(shape))
    assert graph.how == "recorded on meta" or (name == "written" and "not on meta" in graph.how)  # makes CPU constants
    with untouched(model):
        exported = export(model.train(), (example(shape),), {}, how="test")
    for other in (recorded(model, example(shape)), exported):
        assert graph.nodes == other.nodes
        assert graph.outputs == other.outputs


def test_indices_and_recurrent_layers_trace() -> None:
    model, words = Lines(), torch.randint(10, (2, 5))
    graph = trace(model, words)
    assert graph.nodes == recorded(model, words).nodes
    assert {"embedding", "conv1d", "conv3d", "lstm"} <= {node.op for node in graph.operations}
    assert not graph.unreached


def test_every_operation_says_where_it_is() -> None:
    graph = trace(Functional(), example(IMAGES))
    assert [node.name for node in graph.operations] == [
        "conv:conv2d", "leaky_relu", "max_pool2d", "dropout", "mean", "head:linear",
    ]  # fmt: skip
    conv = graph["conv:conv2d"]
    assert (conv.module, conv.op, conv.shape, conv.dtype) == ("conv", "conv2d", (2, 8, 8, 8), "float32")
    assert conv.inputs == ("input.0", "conv.weight", "conv.bias")
    assert conv.parameters == (("weight", "conv.weight"), ("bias", "conv.bias"))
    assert conv.arguments == {"stride": (1, 1), "padding": (1, 1), "dilation": (1, 1), "groups": 1}
    assert graph["leaky_relu"].arguments == {"negative_slope": 0.1}
    path, _, line = str(graph["leaky_relu"].source).rpartition(":")
    assert path.endswith("zoo_of_graphs.py")
    assert line.isdecimal()


def test_a_traced_model_made_of_torch_modules_has_no_source() -> None:
    model = nn.Sequential(nn.Linear(8, 8), nn.ReLU())
    assert {node.source for node in trace(model, example(TOKENS)).operations} == {None}
    assert {node.source for node in recorded(model, example(TOKENS)).operations} == {None}


def test_reused_modules_count_their_calls_and_tied_weights_have_one_name() -> None:
    graph = trace(Reused(), example(IMAGES))
    names = [node.name for node in graph.operations]
    assert [n for n in names if n.endswith("conv2d")] == [
        "block.0:conv2d", "block.0@1:conv2d", "block.0@2:conv2d",
    ]  # fmt: skip
    assert [n for n in names if n.startswith("relu")] == ["relu:relu_", "relu@1:relu_"]
    assert graph["two:linear"].parameters == (("weight", "one.weight"), ("bias", "two.bias"))
    assert "two.weight" not in graph
    assert len(graph.users("one.weight")) == 2


def test_in_place_writes_reach_what_reads_the_whole_tensor() -> None:
    graph = trace(Written(), example(TOKENS))
    writes = [node for node in graph.operations if node.op == "write"]
    assert writes
    assert all(write.shape == (2, 5, 8) for write in writes)
    assert "mul_" in {node.op for node in graph.operations}
    reader = next(node for node in graph.operations if node.op == "sub")
    assert reader.inputs[0] == writes[-1].name


def test_what_depends_on_no_input_and_no_weight_is_a_constant() -> None:
    graph = trace(Written(), example(TOKENS))
    assert [node.shape for node in graph.nodes if node.kind == "constant"] == [(8,)]
    assert "arange" not in {node.op for node in graph.operations}


def test_random_masks_are_no_constants() -> None:
    class Drop(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * x.new_empty(len(x), 1, 1).bernoulli_(0.5)

    graph = trace(Drop(), example(TOKENS))
    assert [node.op for node in graph.operations] == ["bernoulli_", "mul"]


def test_parameters_that_nothing_reads_are_listed() -> None:
    graph = trace(Attention(), example(TOKENS))
    assert graph.unreached == ("spare",)
    model = Attention()
    assert [node.name for node in graph.parameters] == [name for name, _ in model.named_parameters()]


def test_parametrized_weights_are_operations() -> None:
    graph = trace(Parametrized(), example(IMAGES))
    conv = graph["weight_norm:conv2d"]
    assert graph[conv.input_for("weight") or ""].op == "_weight_norm"
    assert graph[conv.input_for("weight") or ""].parameters == (
        ("v", "weight_norm.parametrizations.weight.original1"),
        ("g", "weight_norm.parametrizations.weight.original0"),
    )


def test_value_dependent_control_flow_is_recorded_and_the_reason_said() -> None:
    graph = trace(ValueDependent(), example(IMAGES))
    assert graph.how.startswith("recorded from one batch, not exported: ")
    assert [node.op for node in graph.operations] == ["conv2d", "batch_norm", "relu_", "mean", "linear"]
    assert set(graph.unreached) == {"small.weight", "small.bias"} or set(graph.unreached) == {"big.weight", "big.bias"}


def test_a_model_that_cannot_go_on_meta_is_exported_with_fake_tensors() -> None:
    model = Stubborn()
    graph = trace(model, example(TOKENS))
    assert graph.how.startswith("torch.export with fake tensors, not on meta: ")
    assert graph.nodes == recorded(model, example(TOKENS)).nodes


def test_unknown_operators_are_opaque_and_listed() -> None:
    library = torch.library.Library("firstlight_test", "DEF")
    library.define("twist(Tensor x) -> Tensor")
    library.impl("twist", lambda x: x.flip(0), "CompositeExplicitAutograd")
    library.impl("twist", lambda x: torch.empty_like(x), "Meta")

    class Custom(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.ops.firstlight_test.twist(x).relu()

    for graph in (trace(Custom(), example(TOKENS)), recorded(Custom(), example(TOKENS))):
        assert [node.op for node in graph.opaque] == ["firstlight_test::twist"]
        assert [node.kind for node in graph.operations] == ["opaque", "op"]


def test_keyword_arguments_and_several_inputs() -> None:
    class Two(nn.Module):
        def forward(self, a: torch.Tensor, *, b: torch.Tensor) -> dict[str, torch.Tensor]:
            return {"sum": a + b, "product": a * b}

    graph = trace(Two(), {"a": torch.ones(2), "b": torch.ones(2)})
    assert graph["mul"].inputs == ("input.0", "input.1")
    assert graph.outputs == ("add", "mul")


def test_a_model_that_does_not_run_is_an_error_with_a_way_out() -> None:
    with pytest.raises(FirstlightError, match="mat1 and mat2") as caught:
        trace(nn.Linear(3, 3), torch.ones(2, 4))
    assert caught.value.slug == "model-does-not-run"
    assert isinstance(caught.value.__cause__, RuntimeError)


def test_an_example_of_another_kind_is_an_error() -> None:
    with pytest.raises(FirstlightError) as caught:
        trace(nn.Linear(3, 3), "3x224x224")
    assert caught.value.slug == "example-not-understood"


def test_tracing_writes_nothing(capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        trace(plain(), example(IMAGES))
        trace(ValueDependent(), example(IMAGES))
    assert capfd.readouterr() == ("", "")
    # torch.__trace is torch's own recorder, which ignores levels and writes only where TORCH_TRACE says.
    assert [record for record in caplog.records if record.name != "torch.__trace"] == []
    assert logging.root.manager.disable == logging.NOTSET


@pytest.mark.parametrize("name", EXPORTED)
def test_recording_changes_no_gradient(name: str) -> None:
    build, shape = EXPORTED[name]
    model = build()
    gradients = []
    for watched in (False, True):
        with untouched(model):
            torch.manual_seed(3)
            model.train().zero_grad()
            x = example(shape).requires_grad_()
            y = record(model, (x,), {}, how="test").result if watched else model(x)
            y.square().mean().backward()
            gradients.append([x.grad, *(p.grad for p in model.parameters() if p.grad is not None)])
    assert len(gradients[0]) == len(gradients[1]) > 1
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


@pytest.mark.parametrize(
    "options",
    [{}, {"stride": 2, "padding": 1}, {"padding": (2, 0), "dilation": (2, 1)}, {"groups": 2, "bias": False},
     {"padding": "same"}, {"padding": 1, "padding_mode": "reflect"}],
)  # fmt: skip
def test_a_convolution_on_meta_has_the_shape_it_has(options):
    conv = torch.nn.Conv2d(4, 6, 3, **options)
    node = next(n for n in trace(conv, torch.zeros(2, 4, 9, 11)).nodes if n.op == "conv2d")
    assert node.shape == tuple(conv(torch.zeros(2, 4, 9, 11)).shape)


@pytest.mark.parametrize("shape", [(2, 3, 9, 9), (2, 4, 2, 2), (4, 9)])
def test_a_convolution_that_does_not_run_is_not_traced(shape):
    with pytest.raises(FirstlightError) as caught:
        trace(torch.nn.Conv2d(4, 6, 3), torch.zeros(shape))
    assert caught.value.slug == "model-does-not-run"
