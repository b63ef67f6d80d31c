"""The second way to a graph: watch the model run once on a real batch, and note every operation.

PyTorch breaks composite operations (``conv2d``, ``linear``, ``layer_norm``) up before an ordinary dispatch mode sees
them. They are seen whole only from above autograd, so the recorder steps in there: while it watches, the autograd keys
are switched off, which lets a call fall through to it unbroken; it then runs the call with the keys back on. The model
computes exactly what it would without the recorder, gradients included, and the operations carry the names that
``torch.export`` gives them.
"""

import functools
import sys
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakTensorKeyDictionary

from firstlight.graph.build import Builder, Place, Ref
from firstlight.graph.ir import Graph, Node
from firstlight.graph.names import TORCH, Names

Observer = Callable[[Node, Tensor], None]

_ABOVE_AUTOGRAD = torch._C.DispatchKeySet(torch._C.DispatchKey.AutogradFunctionality)
_ABOVE_AUTOGRAD |= torch._C.DispatchKeySet(torch._C.DispatchKey.AutogradOther)
_ABOVE_AUTOGRAD |= torch._C.DispatchKeySet(torch._C.DispatchKey.ADInplaceOrView)
_CONVOLUTION = torch.ops.aten.conv2d.default
_LIKE = frozenset({torch.ops.aten.batch_norm.default})  # results of the shape of the first operand


@dataclass(frozen=True, slots=True)
class Recording:
    """One watched run.

    Attributes:
        result: what the model returned.
        graph: the operations it took.
        names: final name of each node by its name in the draft; what no output depends on is missing.
    """

    result: Any
    graph: Graph
    names: Mapping[str, str]


def record(
    model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], *, observe: Observer | None = None, how: str
) -> Recording:
    """Run ``model(*args, **kwargs)`` once, in the modes it is in, and note every operation.

    This changes what a forward pass changes (running statistics, random numbers): see `untouched`.

    Args:
        model: any module.
        args: its positional arguments.
        kwargs: its keyword arguments.
        observe: called with the draft of a node and the tensor it stands for, as soon as an operation returns it and
            before anything can overwrite it; `Recording.names` turns the draft's name into the final one.
        how: the graph's account of itself.

    Raises:
        Exception: whatever the model raises.
    """
    recorder = _Recorder(model, observe)
    for leaf in tree_leaves((args, dict(kwargs))):
        if isinstance(leaf, Tensor):
            recorder.refs[leaf] = recorder.builder.input(leaf)
    with recorder.modules, recorder:
        result = model(*args, **kwargs)
    outputs = [recorder.ref(leaf) for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]
    graph, names = recorder.builder.finish(outputs, how)
    return Recording(result, graph, names)


class _Recorder(TorchDispatchMode):
    """Sees each operation whole, runs it as autograd would, and adds it to the graph."""

    def __init__(self, model: nn.Module, observe: Observer | None) -> None:
        super().__init__()
        names = Names(model)
        self.builder = Builder(model)
        self.modules = _ModuleStack(model)
        self.refs = WeakTensorKeyDictionary()
        self._observe = observe
        for name, parameter in model.named_parameters():
            self.refs[parameter] = Ref(names.parameter(name))
        for name, buffer in model.named_buffers():
            self.refs[buffer] = Ref(names.buffer(name))

    def __enter__(self) -> "_Recorder":
        self._keys = torch._C._dispatch_tls_local_include_set(), torch._C._dispatch_tls_local_exclude_set()
        self._guard = torch._C._ExcludeDispatchKeyGuard(_ABOVE_AUTOGRAD)
        self._guard.__enter__()
        super().__enter__()
        return self

    def __exit__(self, *exception: Any) -> None:
        super().__exit__(*exception)
        self._guard.__exit__(None, None, None)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        # Named before the call: an in-place operation returns one of these very tensors.
        named_args = [self._named(arg) for arg in args]
        named_kwargs = {key: self._named(value) for key, value in kwargs.items()}
        with torch._C._ForceDispatchKeyGuard(*self._keys):
            shape = _known_shape(func, args) if args and not kwargs else None
            result = func(*args, **kwargs) if shape is None else torch.empty(shape, dtype=args[0].dtype, device="meta")
            whole = tuple(result) if isinstance(result, list | tuple) else (result,)
            if any(isinstance(part, Tensor) for part in whole):
                shown = result if isinstance(result, Tensor) else whole
                self._keep(self.builder.add(func, named_args, named_kwargs, shown, self._place()), whole)
        return result

    def _keep(self, refs: Any, tensors: tuple[Any, ...]) -> None:
        for ref, tensor in zip((refs,) if isinstance(refs, Ref) else refs, tensors, strict=True):
            if not isinstance(ref, Ref):
                continue
            self.refs[tensor] = ref
            if self._observe is not None:
                self._observe(self.builder.node(ref.name), tensor)

    def _named(self, value: Any) -> Any:
        if isinstance(value, Tensor):
            return self.ref(value)
        return [self._named(item) for item in value] if isinstance(value, list | tuple) else value

    def ref(self, tensor: Tensor) -> Ref:
        """The node of `tensor`; one never seen before is a constant."""
        found: Ref | None = self.refs.get(tensor)
        if found is None:
            found = self.refs[tensor] = self.builder.constant(tensor)
        return found

    def _place(self) -> Place:
        module, call = self.modules.current
        return Place(module, call, _source())


def _known_shape(func: Any, args: tuple[Any, ...]) -> tuple[int, ...] | None:
    """Shape of a result on the meta device that is plain to see, where PyTorch goes a long way to find it."""
    if (func not in _LIKE and func is not _CONVOLUTION) or not args[0].is_meta or not args[0].is_contiguous():
        return None
    x, weight = args[0], args[1]
    if func in _LIKE:
        return tuple(x.shape)
    settings = [*args[2:], *(None, (1, 1), (0, 0), (1, 1), 1)[len(args) - 2 :]]
    _, stride, padding, dilation, groups = settings
    fits = x.dim() == 4 and isinstance(padding, list | tuple) and x.shape[1] == weight.shape[1] * groups
    if not fits or x.dtype != weight.dtype or any(len(v) != 2 for v in (stride, padding, dilation)):
        return None
    each = zip(x.shape[2:], weight.shape[2:], stride, padding, dilation, strict=True)
    sizes = tuple((n + 2 * p - d * (k - 1) - 1) // s + 1 for n, k, s, p, d in each)
    return (x.shape[0], weight.shape[0], *sizes) if min(sizes) > 0 else None


class _ModuleStack:
    """Which module is running, and for which time; hooks are global and leave again, so no module is touched."""

    def __init__(self, model: nn.Module) -> None:
        self._names = {id(module): name for name, module in model.named_modules()}
        self._calls: Counter[str] = Counter()
        self._stack: list[tuple[str, int]] = []

    @property
    def current(self) -> tuple[str, int]:
        """Dotted path of the innermost running module, and how often it had been called before."""
        return self._stack[-1] if self._stack else ("", 0)

    def __enter__(self) -> None:
        self._handles = [
            register_module_forward_pre_hook(self._enter),
            register_module_forward_hook(self._leave, always_call=True),
        ]

    def __exit__(self, *exception: Any) -> None:
        for handle in self._handles:
            handle.remove()

    def _enter(self, module: nn.Module, args: Any) -> None:
        name = self._names.get(id(module))
        if name is not None:
            self._stack.append((name, self._calls[name]))
            self._calls[name] += 1

    def _leave(self, module: nn.Module, args: Any, result: Any) -> None:
        if id(module) in self._names and self._stack:
            self._stack.pop()


def _source() -> str | None:
    """The innermost running line that is neither PyTorch's nor this recorder's."""
    frame = sys._getframe(1)
    while frame is not None and frame.f_code.co_name != "record":
        path = frame.f_code.co_filename
        if path != __file__ and not _is_torch(path):
            return f"{path}:{frame.f_lineno}"
        frame = frame.f_back  # type: ignore[assignment]
    return None


@functools.cache
def _is_torch(path: str) -> bool:
    return path.startswith("<") or TORCH in Path(path).parents
