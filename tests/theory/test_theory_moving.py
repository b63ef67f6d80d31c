"""What arranges elements acts on a map as on the whole tensor, though it sees no more than varies."""

import pytest
import torch

from firstlight.graph import trace
from firstlight.theory.axes import label
from firstlight.theory.maps.moving import adjoint, carried_out, mapped, regrouped
from firstlight.theory.signal import Signal

SHAPE = (2, 6, 4, 8)
ACTS = {
    "permute": lambda x: x.permute(2, 0, 3, 1),
    "transpose": lambda x: x.transpose(1, 3),
    "view": lambda x: x.reshape(2, 3, 2, 32),
    "flatten": lambda x: x.flatten(0, 1),
    "unsqueeze": lambda x: x.unsqueeze(0),
    "pad": lambda x: torch.nn.functional.pad(x, (1, 2, 0, 1)),
    "roll": lambda x: torch.roll(x, (1, -2), (2, 3)),
    "roll of all": lambda x: torch.roll(x, 5),
    "flip": lambda x: x.flip(1),
    "slice": lambda x: x[:, :, 1:3],
    "select": lambda x: x[:, 1],
    "chunk": lambda x: x.chunk(2, 1)[1],
    "unbind": lambda x: x.unbind(2)[3],
}


class Act(torch.nn.Module):
    def __init__(self, name):
        super().__init__()
        self.name = name

    def forward(self, x):
        return ACTS[self.name](x) * 1.0


@pytest.mark.parametrize("varied", [(1, 6, 1, 1), (2, 1, 1, 8), (1, 1, 4, 1), SHAPE])
@pytest.mark.parametrize("name", ACTS)
def test_a_map_is_moved_and_back_as_the_whole_tensor_is(name, varied):
    nodes = [node for node in trace(Act(name), torch.zeros(SHAPE)).operations if "mul" not in node.op]
    node, index = nodes[0], nodes[1].arguments["index"] if len(nodes) > 1 else None
    rng = torch.Generator().manual_seed(0)
    values = torch.rand(varied, generator=rng, dtype=torch.float64)
    one = torch.zeros((1,) * 4, dtype=torch.float64)
    x = Signal("x", SHAPE, label(SHAPE, "bcss"), one, one, one, one)
    start = values.expand(SHAPE).clone().requires_grad_()
    whole = carried_out(node, start)
    whole = whole if index is None else whole[index]
    found = mapped(node, x, values, index, zero_fill=True)
    torch.testing.assert_close(found.expand(whole.shape), whole.detach(), rtol=0, atol=0)
    (back,) = torch.autograd.grad(whole, start, whole.detach())
    torch.testing.assert_close(adjoint(node, x, found, index).expand(SHAPE), back, rtol=0, atol=0)


def test_a_reshape_writes_out_no_more_than_it_has_to():
    values = torch.rand(1, 6, 1, 1)
    assert regrouped(values, (8, 6, 10, 10), (8, 2, 3, 100)).shape == (1, 2, 3, 1)
    assert regrouped(values, (8, 6, 10, 10), (8, 60, 5, 2)).shape == (1, 60, 1, 1)
    assert regrouped(values, (8, 6, 10, 10), (1, 8, 6, 100)).shape == (1, 1, 6, 1)
