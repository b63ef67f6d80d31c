"""The number to differentiate: the caller's loss, or the most natural one for what the model returns."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from firstlight.errors import FirstlightError
from firstlight.graph.trace import reason

Loss = Callable[..., Tensor]


def evaluate(output: Any, labels: Tensor | None, loss: Loss | None) -> tuple[Tensor, str]:
    """The loss of a batch as a scalar, and its kind in words.

    Without a `loss`: what the model itself returns as ``"loss"`` in a mapping, or the sum of a mapping of scalars;
    cross-entropy when there are integer labels and every output is logits for them; otherwise half the mean squared
    distance to a fixed random target, which has a gradient everywhere and means nothing else.

    Raises:
        FirstlightError: slug ``loss-does-not-fit``, when the loss cannot be computed or is no finite-size scalar.
    """
    try:
        value, kind = _chosen(output, labels, loss)
    except FirstlightError:
        raise
    except Exception as error:
        raise _misfit(f"it raised {reason(error)}{_returned(output)}") from error
    if not isinstance(value, Tensor) or value.numel() != 1:
        shape = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
        raise _misfit(f"it gave {shape} instead of one number")
    return value.reshape(()), kind


def _chosen(output: Any, labels: Tensor | None, loss: Loss | None) -> tuple[Tensor, str]:
    if loss is not None:
        name = getattr(loss, "__name__", type(loss).__name__)
        return (loss(output) if labels is None else loss(output, labels)), name
    tensors = [leaf for leaf in tree_leaves(output) if isinstance(leaf, Tensor) and leaf.is_floating_point()]
    if not tensors:
        raise _misfit("the model returns no floating-point tensor")
    if isinstance(output, Mapping) and isinstance(output.get("loss"), Tensor):
        return output["loss"], "the model's own loss"
    if isinstance(output, Mapping) and all(tensor.numel() == 1 for tensor in tensors):
        return torch.stack([tensor.reshape(()) for tensor in tensors]).sum(), "sum of the model's own losses"
    if labels is not None and all(_are_logits(tensor, labels) for tensor in tensors):
        each = torch.stack([torch.nn.functional.cross_entropy(tensor.float(), labels.long()) for tensor in tensors])
        return each.sum(), "cross-entropy" + (f", summed over {len(tensors)} outputs" if len(tensors) > 1 else "")
    return _surrogate(tensors), "surrogate: half the mean squared distance to a fixed random target"


def _are_logits(output: Tensor, labels: Tensor) -> bool:
    whole = not (labels.is_floating_point() or labels.is_complex())
    return whole and output.dim() >= 2 and output.shape[:1] + output.shape[2:] == labels.shape


def _surrogate(outputs: list[Tensor]) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    distances = []
    for output in outputs:
        target = torch.randn(output.shape, generator=generator).to(output.device)
        distances.append((output.float() - target).square().mean() / 2)
    return torch.stack(distances).sum()


def _returned(output: Any) -> str:
    """What the model returns, where that is no tensor and so may be the reason."""
    if isinstance(output, Mapping):
        return f"; the model returns a mapping of {', '.join(map(str, [*output][:6]))}"
    return "" if isinstance(output, Tensor) else f"; the model returns a {type(output).__name__}"


def _misfit(cause: str) -> FirstlightError:
    return FirstlightError(
        f"the loss does not fit what the model returns: {cause}",
        "pass loss=..., a callable of the output (and the labels, if given) that returns one number",
        slug="loss-does-not-fit",
        call="probe(model, batch, labels, loss)",
    )
