"""Random orthogonal matrices, uniform over all of them, made of matrix products only.

The usual way factors a normal matrix, ``A = QR``, and throws ``R`` away. Its ``Q`` is a product of reflections
``H_1 … H_n``; when ``H_1 … H_{k-1}`` have been applied, what is left of column ``k`` is again a vector of independent
normal numbers, so it may as well be drawn (Stewart, "The efficient generation of random orthogonal matrices", 1980).
That saves the factorization, the slow half. The reflections are applied a block at a time in the form
``H_1 … H_b = I - V T Vᵀ`` (Schreiber and Van Loan, 1989), where ``T⁻¹`` is the upper triangle of ``VᵀV`` with half of
its diagonal. Signs as for an ``R`` with positive diagonal make ``Q`` uniform (Mezzadri, 2007).
"""

import torch
from torch import Tensor

_BLOCK = 128


def orthonormal(normal: Tensor) -> Tensor:
    """Columns that are orthonormal and uniformly distributed, from normal numbers.

    Args:
        normal: ``[rows, columns]``, rows ≥ columns, independent standard normal; only the lower part is used, and it
            is overwritten.

    Returns:
        ``[rows, columns]``, float32 or float64 as `normal`; ``QᵀQ = I`` up to rounding.
    """
    columns = normal.shape[1]
    vectors, signs = _reflections(normal)
    q = torch.zeros_like(normal)
    q.diagonal().fill_(1)
    for start in reversed(range(0, columns, _BLOCK)):
        v = vectors[start:, start : start + _BLOCK]
        inverse = (v.mT @ v).triu()
        inverse.diagonal().mul_(0.5)
        part = q[start:, start:]  # the rest of these rows and columns is still the identity's
        weights = torch.linalg.solve_triangular(inverse, v.mT @ part, upper=True)
        part.addmm_(v, weights, alpha=-1)
    return q.mul_(signs)


def _reflections(normal: Tensor) -> tuple[Tensor, Tensor]:
    """Vectors ``v`` of ``H = I - 2 v vᵀ / vᵀv``, scaled to ``vᵀv = 1``, in the lower part, and the sign of each column.

    ``v = x + sign(x₁) |x| e₁`` sends ``x`` to ``-sign(x₁) |x| e₁``: a diagonal of ``R`` of the opposite sign.
    """
    vectors = normal.tril_()
    first = vectors.diagonal().clone()
    signs = torch.where(first < 0, 1.0, -1.0).to(normal.dtype)
    lengths = torch.linalg.vector_norm(vectors, dim=0)
    vectors.diagonal().add_(-signs * lengths)
    return vectors.div_(torch.linalg.vector_norm(vectors, dim=0)), signs


def blocks(normal: Tensor, count: int) -> Tensor:
    """`count` matrices of a tensor, stacked along its first dimension, each as orthogonal as its shape allows.

    Args:
        normal: ``[count · rows, *rest]``, independent standard normal; it is overwritten.
        count: number of matrices; each is ``[rows, ∏rest]``.

    Returns:
        the shape of `normal`; rows orthonormal where a matrix is wide, columns where it is tall, and all of it scaled
        so that the mean square of its elements is one.
    """
    matrices = normal.view(count, normal.shape[0] // count, -1)
    rows, columns = matrices.shape[1:]
    for matrix in matrices:
        made = orthonormal(matrix.clone()) if rows >= columns else orthonormal(matrix.mT.contiguous()).mT
        matrix.copy_(made)
    return normal.mul_(max(rows, columns) ** 0.5)
