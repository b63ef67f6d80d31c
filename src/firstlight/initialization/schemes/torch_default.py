"""What PyTorch's own constructors draw, for comparison and for reproducing old runs.

``reset_parameters`` of each module, children first, from PyTorch's global generator seeded with the seed (and put back
afterwards): bit-identical to constructing the modules after ``torch.manual_seed(seed)`` where that is the order in
which they are constructed. These numbers depend on the order, the layout and the sharding; the other schemes' do not.
"""

from firstlight.graph import Graph
from firstlight.initialization.plan import Decision, Plan


def torch_default(graph: Graph) -> Plan:
    """Plan to let each module reset its own parameters; those of modules that cannot keep their values."""
    why = "whatever reset_parameters of its module draws (Linear and Conv: uniform, std 1/√(3 fan-in))"
    return Plan(
        "torch-default",
        tuple(
            Decision(node.name, "torch-default", "reset", 0.0, 0.0, None, None, None, why) for node in graph.parameters
        ),
    )
