"""Maps of which only the slices that differ along one dimension are kept.

The channels of a concatenation come in segments, and so do those of what is computed from it element by element: a
residual sum in a network of inception blocks has hundreds of channels, among which a dozen slices differ. `Runs` is a
tensor of the full shape that keeps one of each. What acts element by element acts on the slices; a mean counts each as
often as it stands for others; any other operation is given the full tensor.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

_LEAST = 1 << 15  # elements; smaller maps are not worth it
_ATEN = torch.ops.aten
_COPIES = {_ATEN.clone, _ATEN.detach, _ATEN._to_copy, _ATEN.zeros_like, _ATEN.ones_like, _ATEN.full_like}
_OF_VALUES = {_ATEN.all.default, _ATEN.any.default, _ATEN.min.default, _ATEN.max.default}
_VIEWS = {_ATEN.view.default, _ATEN._unsafe_view.default, _ATEN.expand.default}


class Runs(Tensor):
    """A tensor with equal slices along one dimension.

    Args:
        slices: those that differ, with fewer indices along that dimension than the tensor has.
        index: which of them, its `kind`, each index of the dimension has, [n].
        along: the dimension.
    """

    slices: Tensor
    kind: Tensor
    along: int

    @staticmethod
    def __new__(cls, slices: Tensor, index: Tensor, along: int) -> "Runs":
        """Without the memory of the full tensor."""
        shape = [len(index) if d == along else n for d, n in enumerate(slices.shape)]
        made: Runs = Tensor._make_wrapper_subclass(cls, shape, dtype=slices.dtype)
        made.slices, made.kind, made.along = slices, index, along
        return made

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Carry an operation of ATen out, on the slices where these are enough."""
        kwargs = kwargs or {}
        if func._schema.is_mutable:
            raise NotImplementedError(f"{func} would change a map in place")
        found = None
        if torch.Tag.pointwise in func.tags or func.overloadpacket in _COPIES:
            found = _elementwise(func, args, kwargs)
        elif isinstance(args[0], Runs):
            found = _special(func, args[0], args[1:])
        return func(*tree_map(full, args), **tree_map(full, kwargs)) if found is None else found

    @property
    def places(self) -> tuple[Tensor, Tensor]:
        """The first index of each kind of slice, and the kind of each index."""
        return _first(self.kind, self.slices.shape[self.along]), self.kind

    def over(self, f: Callable[[Tensor], Tensor]) -> Tensor:
        """`f`, which leaves the dimension as it is and treats all its indices alike."""
        return runs(f(self.slices), self.kind, self.along)


def full(x: Any) -> Any:
    """All elements of a map; anything else as it is."""
    return x.slices.index_select(x.along, x.kind) if isinstance(x, Runs) else x


def runs(slices: Tensor, index: Tensor, along: int) -> Tensor:
    """A map with these slices, whole where keeping fewer saves little."""
    size = math.prod(slices.shape) // max(slices.shape[along], 1) * len(index)
    if size < _LEAST or slices.shape[along] > len(index) // 2:
        return slices.index_select(along, index)
    return Runs(slices, index, along)


def classes(maps: Sequence[Tensor], dim: int) -> tuple[Tensor, Tensor] | None:
    """Where several maps change along `dim`: the first index of each kind, and the kind of each index.

    ``None`` when one of them has all its slices, or none of them varies.
    """
    varied = [m for m in maps if m.shape[dim] > 1]
    if not varied or not all(isinstance(m, Runs) and m.along == dim for m in varied):
        return None
    return _kinds([m.kind for m in varied if isinstance(m, Runs)])


def joined(maps: Sequence[Tensor], sizes: Sequence[int], dim: int) -> Tensor:
    """Maps next to each other along `dim`, each over so many indices of it."""
    parts, indices, start = [], [], 0
    for m, n in zip(maps, sizes, strict=True):
        if isinstance(m, Runs) and m.along == dim:
            slices, index = m.slices, m.kind
        else:
            slices = full(m)
            index = torch.arange(n) if m.shape[dim] > 1 else torch.zeros(n, dtype=torch.long)
        parts.append(slices)
        indices.append(index + start)
        start += int(slices.shape[dim])
    shape = torch.Size(max(p.shape[d] for p in parts) for d in range(parts[0].dim()))
    wide = [p.expand(*shape[:dim], p.shape[dim], *shape[dim + 1 :]) for p in parts]
    return runs(torch.cat(wide, dim), torch.cat(indices), dim)


def _kinds(indices: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """The first place of each combination of kinds, and which combination each place has."""
    code = indices[0]
    for other in indices[1:]:
        if other is not code:
            code = code * (int(other.max()) + 1) + other
    _, kind = torch.unique(code, return_inverse=True)
    return _first(kind, int(kind.max()) + 1), kind


def _first(kind: Tensor, count: int) -> Tensor:
    """The first place of each of so many kinds."""
    return torch.full((count,), len(kind)).scatter_reduce_(0, kind, torch.arange(len(kind)), "amin")


def _elementwise(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    known = [a for a in args if isinstance(a, Runs)]
    if not known:
        return None
    along, rank = known[0].along, known[0].dim()
    tensors = [a for a in args if isinstance(a, Tensor) and a.dim()]
    if not all(a.dim() == rank and (a.along == along if isinstance(a, Runs) else True) for a in tensors):
        return None
    first, kind = known[0].places if all(a.kind is known[0].kind for a in known) else _kinds([a.kind for a in known])
    few = [_few(a, along, first, kind) if isinstance(a, Tensor) and a.dim() else a for a in args]
    return None if any(a is None for a in few) else runs(func(*few, **kwargs), kind, along)


def _few(x: Tensor, along: int, first: Tensor, kind: Tensor) -> Tensor | None:
    """One slice of each kind; ``None`` where slices of one kind are not equal."""
    if x.shape[along] == 1:
        return x
    if isinstance(x, Runs):
        return x.slices if x.kind is kind else x.slices.index_select(along, x.kind[first])
    few = x.index_select(along, first)
    return few if bool((few.index_select(along, kind) == x).all()) else None


def _special(func: Any, x: Runs, rest: tuple[Any, ...]) -> Any:
    if func in _OF_VALUES:
        return func(x.slices)
    if func in _VIEWS:
        return x.over(lambda s: s) if tuple(rest[0]) == tuple(x.shape) else None
    packet = func.overloadpacket
    if packet in (_ATEN.mean, _ATEN.sum):
        return _reduced(packet, x, *rest) if func in (_ATEN.mean.dim, _ATEN.sum.dim_IntList) or not rest else None
    if packet in (_ATEN.slice, _ATEN.index_select):
        if rest[0] % x.dim() != x.along:
            return x.over(lambda s: func(s, *rest))
        first, kind = _kinds([func(x.kind, 0, *rest[1:])])
        return runs(x.slices.index_select(x.along, func(x.kind, 0, *rest[1:])[first]), kind, x.along)
    if packet is _ATEN.constant_pad_nd and x.along < x.dim() - len(rest[0]) // 2:
        return x.over(lambda s: func(s, *rest))
    return None


def _reduced(packet: Any, x: Runs, dims: Sequence[int] | None = None, keepdim: bool = False) -> Any:
    chosen = sorted(d % x.dim() for d in (dims or range(x.dim())))
    if x.along not in chosen:
        return x.over(lambda s: packet(s, chosen, keepdim)) if keepdim else None
    counts = torch.bincount(x.kind, minlength=x.slices.shape[x.along]).to(x.slices.dtype)
    weights = counts / len(x.kind) if packet is _ATEN.mean else counts
    found = (x.slices * weights.view([-1 if d == x.along else 1 for d in range(x.dim())])).sum(x.along, keepdim=True)
    others = [d for d in chosen if d != x.along]
    found = packet(found, others, True) if others else found
    return found if keepdim else found.squeeze(chosen)
