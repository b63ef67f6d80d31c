"""A batch, whatever its structure, as samples that can be counted, copied and chosen."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map


def batch_size(batch: Any) -> int | None:
    """How many samples there are: the first axis of the first tensor, or the length of a list of images.

    None where the batch begins with something else.
    """
    if isinstance(batch, Tensor):
        return len(batch) if batch.dim() else None
    if isinstance(batch, Mapping):
        return batch_size(next(iter(batch.values()), None))
    if isinstance(batch, list | tuple) and batch:
        # A tuple holds arguments; a list of images, each without an axis of samples, is one argument.
        first = batch[0]
        images = isinstance(batch, list) and isinstance(first, Tensor) and first.dim() == 3
        return len(batch) if images else batch_size(first)
    return None


def copied(batch: Any) -> Any:
    """The same batch in memory of its own, which a model may overwrite."""
    return tree_map(lambda leaf: _copy(leaf) if isinstance(leaf, Tensor) else leaf, batch)


def _copy(tensor: Tensor) -> Tensor:
    return tensor.detach().clone().requires_grad_(tensor.requires_grad)


def with_company(batch: Any, size: int, *others: float) -> Any:
    """The first sample of a batch of `size`, and beside it the last one times each of `others`.

    Only the first argument is multiplied, where it is floating-point: boxes and masks mean something. What has no axis
    (or list) of that length is left as it is.
    """
    same = (1.0,) * len(others)
    if isinstance(batch, Tensor):
        if batch.dim() == 0 or len(batch) != size:
            return batch
        return torch.cat([batch[:1], *(_times(batch[-1:], factor) for factor in others)])
    if isinstance(batch, Mapping):
        return {
            key: with_company(value, size, *(same if turn else others))
            for turn, (key, value) in enumerate(batch.items())
        }
    if isinstance(batch, list) and len(batch) == size and all(isinstance(x, Tensor | Mapping) for x in batch):
        return [batch[0], *(tree_map(lambda leaf, f=factor: _times(leaf, f), batch[-1]) for factor in others)]
    if isinstance(batch, list | tuple):
        return type(batch)(with_company(value, size, *(same if turn else others)) for turn, value in enumerate(batch))
    return batch


def _times(leaf: Any, factor: float) -> Any:
    return leaf * factor if isinstance(leaf, Tensor) and leaf.is_floating_point() else leaf
