"""Which distribution some numbers came from: Kolmogorov's distance from each family with their mean and spread."""

import math

import torch
from torch import Tensor

_SAMPLE = 1 << 16
_KEPT = 0.8796256610342398  # standard deviation that a standard normal keeps when cut at ±2


def family(values: Tensor, mean: float, std: float) -> str:
    """``"constant"``, ``"normal"``, ``"truncated-normal"`` (at ±2), ``"uniform"``, ``"orthogonal"`` or ``"other"``.

    Args:
        values: a parameter, float64.
        mean: of its elements.
        std: of its elements, over n.
    """
    if std <= 1e-6 * max(abs(mean), 1e-30) or values.numel() == 1:
        return "constant"
    if values.dim() > 1 and _orthogonal(values.flatten(1)):
        return "orthogonal"
    flat = values.flatten()
    sample = flat[:: math.ceil(flat.numel() / _SAMPLE)].sort().values
    z, n = (sample - mean) / std, sample.numel()
    if n < 32:
        return "other"
    places = (torch.arange(n, device=z.device) + 0.5) / n
    distances = {name: float((law(z) - places).abs().max()) for name, law in _LAWS.items()}
    best = min(distances, key=distances.__getitem__)
    # Kolmogorov's 0.1 % point is 1.95/√n; half a step of the staircase is allowed for.
    return best if distances[best] <= (1.95 + 0.5) / math.sqrt(n) else "other"


def _phi(z: Tensor) -> Tensor:
    return (1 + torch.erf(z / math.sqrt(2))) / 2


_LAWS = {
    "normal": _phi,
    "truncated-normal": lambda z: ((_phi(z * _KEPT) - 0.022750131948) / 0.954499736104).clamp(0, 1),
    "uniform": lambda z: ((z / math.sqrt(3) + 1) / 2).clamp(0, 1),
}


def _orthogonal(matrix: Tensor) -> bool:
    small = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.mT
    if not 2 <= small.shape[0] <= 1024:
        return False
    gram = small @ small.mT
    scale = float(gram.diagonal().mean())
    return scale > 0 and bool(((gram / scale) - torch.eye(len(gram)).to(gram)).abs().max() < 1e-2)
