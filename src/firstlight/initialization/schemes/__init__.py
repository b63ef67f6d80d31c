"""One file per scheme, each a function from a graph to a plan."""

from collections.abc import Callable, Mapping

from firstlight.graph import Graph
from firstlight.initialization.plan import Plan
from firstlight.initialization.schemes.auto import auto
from firstlight.initialization.schemes.fixup import fixup
from firstlight.initialization.schemes.kaiming import kaiming
from firstlight.initialization.schemes.lecture_xavier import lecture_xavier
from firstlight.initialization.schemes.lecun import lecun
from firstlight.initialization.schemes.lsuv import lsuv
from firstlight.initialization.schemes.mup import mup
from firstlight.initialization.schemes.orthogonal import delta_orthogonal, orthogonal
from firstlight.initialization.schemes.simple import constant, normal, zeros
from firstlight.initialization.schemes.torch_default import torch_default
from firstlight.initialization.schemes.truncated import truncated_normal
from firstlight.initialization.schemes.xavier import xavier
from firstlight.initialization.schemes.zero_residual import zero_residual


def _kaiming_fan_out(graph: Graph) -> Plan:
    return kaiming(graph, mode="fan_out")


SCHEMES: Mapping[str, Callable[[Graph], Plan]] = {
    "auto": auto,
    "kaiming": kaiming,
    "kaiming-fan-out": _kaiming_fan_out,
    "xavier": xavier,
    "lecture-xavier": lecture_xavier,
    "lecun": lecun,
    "orthogonal": orthogonal,
    "delta-orthogonal": delta_orthogonal,
    "truncated-normal": truncated_normal,
    "zero-residual": zero_residual,
    "fixup": fixup,
    "torch-default": torch_default,
    "normal": normal,
    "constant": constant,
    "zeros": zeros,
}
"""Every scheme that needs a graph and nothing else, by name; `mup` needs a base and `lsuv` a model and a batch."""

__all__ = [
    "SCHEMES", "auto", "constant", "delta_orthogonal", "fixup", "kaiming", "lecture_xavier", "lecun", "lsuv", "mup",
    "normal", "orthogonal", "torch_default", "truncated_normal", "xavier", "zero_residual", "zeros",
]  # fmt: skip
