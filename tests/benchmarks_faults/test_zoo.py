"""Alarms on healthy networks are counted whole, and those that are true stand beside them with what is wrong."""

import pytest
import timm
import torch

from faults.score import Alarm, Row, healthy_table
from faults.zoo import TRUE, is_true


def test_the_one_true_alarm_is_true() -> None:
    """The attention of csatv2 hands on its bias, whatever it reads."""
    assert list(TRUE) == [("timm:csatv2", "FL307")]
    model = timm.create_model("csatv2", num_classes=10)
    norms = [m for name, m in model.named_modules() if name.endswith(("attn.attn.norm1", "attn.attn.norm2"))]
    assert len(norms) > 10
    for norm in norms:
        assert tuple(norm.normalized_shape) == (1,)
        torch.testing.assert_close(norm(torch.randn(2, 9, 1)), norm.bias.expand(2, 9, 1))


@pytest.mark.parametrize(
    ("said", "counts"),
    [
        (("fail FL307", "note FL204"), ["100.0%", "1", "100.0%", "1"]),
        (("fail FL307", "warn FL402"), ["100.0%", "1", "100.0%", "0"]),
        (("fail FL307", "fail FL602"), ["100.0%", "0", "100.0%", "0"]),
        (("note FL307",), ["0.0%", "0", "0.0%", "0"]),
    ],
)
def test_a_network_counts_as_truly_alarmed_where_every_alarm_is_true(said: tuple[str, ...], counts: list[str]) -> None:
    findings = [Alarm(line.split()[1], "attn", line.split()[0], "title") for line in said]

    def cells(name: str) -> list[str]:
        row = Row.of(f"{name}, seed 0", "firstlight", findings, 1.0)
        return healthy_table([row], "zoo", is_true).splitlines()[1].split()[2:6]

    assert cells("timm:csatv2") == counts
    assert cells("timm:resnet18") == [counts[0], "0", counts[2], "0"]
