"""Random orthogonal matrices, uniform over all of them, made of matrix products only.

The usual way factors a normal matrix, ``A = QR``, and throws ``R`` away. Its ``Q`` is a product of reflections
``H_1 … H_n``; when ``H_1 … H_{k-1}`` have been applied, what is left of column ``k`` is again a vector of independent
normal numbers, so it may as well be drawn (Stewart, "The efficient generation of random orthogonal matrices", 1980).
That saves the factorization, half of the work. The reflections are applied a block at a time in the form
``H_1 … H_b = I - V T Vᵀ`` (Schreiber and Van Loan, 1989), where ``T⁻¹`` is the upper triangle of ``VᵀV`` with half of
its diagonal. Signs as for an ``R`` with positive diagonal make ``Q`` uniform (Mezzadri, 2007).

``n`` reflections of ``n`` numbers cost 4/3 n³ operations, against 8/3 n³ for the usual way. How far the result is from
orthogonal depends on how well ``T`` fits ``V``: these small matrices are computed in float64.
"""

import torch
from torch import Tensor

_BLOCK = 96


def orthonormal_(normal: Tensor) -> Tensor:
    """Make rows that are orthonormal and uniformly distributed out of normal numbers, in place.

    Args:
        normal: ``[rows, columns]``, rows ≤ columns, independent standard normal; only the upper part is used.

    Returns:
        `normal`, float32 or float64 as it was, now ``Q`` with ``Q Qᵀ = I`` up to rounding.
    """
    for start in reversed(range(0, normal.shape[0], _BLOCK)):
        # The lower right of `normal` holds the rows made so far, Q'; the vectors above them turn it into
        # diag(I, Q') (I - Vᵀ Tᵀ V), with vectors as rows and I cut to the block's signs.
        v, tv, signs = _reflections(normal[start : start + _BLOCK, start:].clone())
        k, made = len(v), normal[start + _BLOCK :, start + _BLOCK :]
        top = normal[start : start + k, start:]
        torch.matmul((tv[:, :k] * -signs).mT, v, out=top)
        top.diagonal().add_(signs)
        if made.numel():
            u = made @ tv[:, k:].mT
            normal[start + k :, start : start + k] = -(u @ v[:, :k])
            made.addmm_(u, v[:, k:], alpha=-1)
    return normal


def _reflections(v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """``V``, ``T V`` and the sign of each row, from normal numbers in the upper part of `v`, ``[block, columns]``.

    A row ``x`` becomes ``v = x + sign(x₁) |x| e₁``, which sends ``x`` to ``-sign(x₁) |x| e₁``.
    """
    v[:, : len(v)].triu_()
    first = v.diagonal()
    signs = torch.where(first < 0, 1.0, -1.0).to(v.dtype)
    first.sub_(signs * torch.linalg.vector_norm(v, dim=1))
    wide = v.double()
    inverse = wide @ wide.mT
    inverse.diagonal().mul_(0.5)
    identity = torch.eye(len(v), dtype=wide.dtype, device=v.device)
    t = torch.linalg.solve_triangular(inverse.triu(), identity, upper=True)
    return v, t.to(v.dtype) @ v, signs


def blocks(normal: Tensor, count: int) -> Tensor:
    """`count` matrices of a tensor, stacked along its first dimension, each as orthogonal as its shape allows.

    Args:
        normal: ``[count · rows, *rest]``, contiguous, independent standard normal; it is overwritten.
        count: number of matrices; each is ``[rows, ∏rest]``.

    Returns:
        `normal`; rows orthonormal where a matrix is wide, columns where it is tall, and all of it scaled so that the
        mean square of its elements is one.
    """
    matrices = normal.view(count, normal.shape[0] // count, -1)
    rows, columns = matrices.shape[1:]
    if min(rows, columns) == 1:
        matrices.div_(torch.linalg.vector_norm(matrices, dim=(1, 2), keepdim=True))
    else:
        for matrix in matrices:
            if rows <= columns:
                orthonormal_(matrix)
            else:
                matrix.copy_(orthonormal_(matrix.view(columns, rows)).mT.clone())
    return normal.mul_(max(rows, columns) ** 0.5)
