"""Convolutions of each channel that a network applies again and again with the same weights.

A position encoding ``x + w ∗ x`` that is shared by all blocks sees, in ``x``, what it has added before. Over the draw
of its taps the Fourier coefficients ``ŵ`` are complex Gaussians of variance ``g``, the gain of one convolution, and of
``w ∗ … ∗ w ∗ s``, k times, the second moment is ``E |ŵ|^{2k} = k! g^k`` rather than ``g^k``. So results of the same
weights on the same source are one source, and ``n`` of them in a row add up to ``(1 + ŵ)^n``, whose size grows with
``n² g`` rather than ``n g``.

With ``n`` taps, ``E ŵ(f)² = σ² Σ_k e^{2ikf}``, which is ``g/n`` on average over ``f`` where one tap is the middle (it
alone meets itself), and its square ``g²/n``. Hence ``E |ŵ|^{2k} = k! g^k (1 + k(k-1)/4n)`` to first order in ``1/n``,
and ``w ∗ w ∗ s`` has ``g/n`` of ``s`` in it.
"""

from dataclasses import replace

from firstlight.theory.maps.registry import Context
from firstlight.theory.signal import Coefficient, Signal


def again(ctx: Context, x: Signal, weight: Signal, made: Signal, taps: int) -> Signal:
    """`made`, the convolution of each channel of `x` with `taps` weights of its own, as a sum of known sources.

    Args:
        ctx: to learn the leaves of sources, and to enter new ones.
        x: what is read.
        weight: of the convolution; one that is used once makes a source of its own.
        made: what the convolution's rule says of the result, of the shape of `x`, as a source of its own.
        taps: of the kernel.
    """
    if len(ctx.graph.users(weight.name)) < 2 or float(weight.mean.abs().max()) > 0:
        return made
    gain = float(made.second.mean() / x.second.mean().clamp_min(1e-300))
    mark = f"{weight.name}*"
    terms: dict[str, Coefficient] = {}
    grown = 0.0
    for source, c in x.terms.items():
        if source not in ctx.leaves:
            continue
        before = source.count(mark)
        ratio = (before + 1) * _moment(before + 1, taps) / _moment(before, taps)
        ctx.leaves[mark + source] = gain * ratio * ctx.leaves[source]
        terms[mark + source] = c
        if source.startswith(mark):
            inner = source.removeprefix(mark)
            terms[inner] = terms.get(inner, 0.0) + before * gain / taps * c
        grown += (ratio - 1) * float((c * c * ctx.leaves[source])[0])
    factor = 1 + max(grown, 0.0) / max(float(x.second.mean()), 1e-300)
    second, far, other = (m * factor for m in made.maps()[1:])
    ctx.leaves.pop(made.name, None)  # what it was as a source of its own
    return ctx.register(replace(made, second=second, far=far, other=other, terms={**terms, made.name: 1.0}))


def _moment(k: int, taps: int) -> float:
    """``E |ŵ|^{2k}`` over ``k! g^k``."""
    return 1 + k * (k - 1) / (4 * taps)
