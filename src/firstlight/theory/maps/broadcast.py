"""Operands of different shapes: a signal repeated to a larger shape, and its gradient, a sum over the copies."""

from dataclasses import replace

from firstlight.theory.axes import Axes, main_kind
from firstlight.theory.signal import Gradient, Signal


def aligned(x: Signal, shape: tuple[int, ...], axes: Axes) -> Signal:
    """`x` as it is broadcast to `shape`: what is repeated along all sites is equal at all sites, and so for samples."""
    rank, lead = len(shape), len(shape) - len(x.shape)
    maps = [m.reshape((1,) * lead + tuple(m.shape)) for m in x.maps()]
    mean, second, far, other = maps
    full = (1,) * lead + x.shape
    repeated = [full[d] == 1 and shape[d] > 1 for d in range(rank)]
    sites = [d for d in range(rank) if any(k == "s" for k, _ in axes[d]) and shape[d] > 1]
    samples = [d for d in range(rank) if any(k == "b" for k, _ in axes[d])]
    if sites and all(repeated[d] or full[d] == 1 for d in sites):
        far = second
    if samples and all(full[d] == 1 for d in samples):
        other = far
    return replace(x, shape=shape, axes=axes, mean=mean, second=second, far=far, other=other)


def reduced(g: Gradient, x: Signal, shape: tuple[int, ...], axes: Axes) -> Gradient:
    """The gradient by an operand that was broadcast: a sum over its copies, which agree between sites by `far`."""
    lead = len(shape) - len(x.shape)
    full = (1,) * lead + x.shape
    second, far, profile = g.second, g.far, g.profile
    summed = [d for d in range(len(shape)) if full[d] == 1 and shape[d] > 1]
    if not summed and not lead:
        return replace(g, along=None, echo=None)
    sites = [d for d in summed if main_kind(axes[d]) == "s"]
    for d in summed:
        n = shape[d]
        second, far = (m.mean(d, keepdim=True) for m in (second, far))
        second = n * (second + (n - 1) * far) if d in sites else n * second
        far = n * n * far if d in sites else n * far
        profile = None if profile is None else profile.mean(d, keepdim=True)
    if profile is not None:
        profile = profile.reshape(profile.shape[lead:])
    return replace(g.moved(second.reshape(second.shape[lead:]), far.reshape(far.shape[lead:])), profile=profile)
