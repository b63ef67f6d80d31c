"""Where something is: what a finding says of a node or of a parameter, and how a list of places is cut short."""

from collections.abc import Sequence
from typing import Any

from firstlight.graph import Graph


def at_node(graph: Graph, name: str) -> dict[str, Any]:
    """`where`, `node` and `source` of a finding about a node; its own name stands for a module without one."""
    if name not in graph:
        return {"where": name}
    node = graph[name]
    return {"where": node.module or name, "node": name, "source": node.source}


def at_parameter(graph: Graph, parameter: str) -> dict[str, Any]:
    """`where`, `node` and `source` of a finding about a parameter: its module, and what reads it first."""
    user = next(iter(graph.users(parameter)), None) if parameter in graph else None
    return {
        "where": module_of(parameter) or parameter,
        "node": None if user is None else user.name,
        "source": None if user is None else user.source,
    }


def module_of(parameter: str) -> str:
    """Dotted path of the module that holds a parameter."""
    return parameter.rpartition(".")[0]


def several(names: Sequence[str], shown: int = 3) -> str:
    """``"a, b, c and 5 more"``."""
    listed = ", ".join(names[:shown])
    return f"{listed} and {len(names) - shown} more" if len(names) > shown else listed


def code(path: str) -> str:
    """A module or parameter as Python reaches it: ``model.layers[0].fc`` for ``layers.0.fc``."""
    steps = [f"[{part}]" if part.isdigit() else f".{part}" for part in path.split(".") if part]
    return "model" + "".join(steps)
