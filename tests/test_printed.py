"""What results print as: one line for each thing that was found, in words a reader can use."""

import torch

import firstlight as fl
from firstlight.models import small_cnn
from firstlight.report.compare_page import Contender
from firstlight.workflows.comparing import Comparison


def test_a_graph_prints_its_operations():
    graph = fl.trace(small_cnn(), torch.zeros(2, 3, 32, 32))
    first, head, *lines = str(graph).splitlines()
    assert first == f"{len(graph.operations)} operations, {graph.how}"
    assert head.split() == ["operation", "reads", "shape", "source"]
    assert [line.split()[0] for line in lines] == [node.name for node in graph.operations]
    assert "2×32×32×32" in lines[0]


def test_a_prediction_prints_a_line_for_each_operation():
    found = fl.predict(small_cnn(), torch.zeros(2, 3, 32, 32))
    lines = str(found).splitlines()[1:]
    assert [line.split()[0] for line in lines[: len(found.nodes)]] == [node.name for node in found.nodes]
    assert f"{found.nodes[0].forward_std:.4g}" in lines[0]
    assert lines[len(found.nodes) :] == list(found.notes)


def test_a_comparison_prints_its_ranking():
    one = Contender("kaiming", "resnet", 0.01, (0.0,), ((0.5,),), (0.5,), "trains", None, 1)
    two = Contender("zeros", "resnet", 0.01, (0.0,), ((2.3,),), (2.3,), "stalls", None, 2)
    found = Comparison((one, two), 2.303, "net", "digits", {"seeds": [0, 1]})
    assert str(found).splitlines()[0] == found.verdict
    assert [line.split()[0] for line in str(found).splitlines()[2:]] == ["1", "2"]
    assert "kaiming, resnet" in str(found)
    assert "stalls" in str(found)
