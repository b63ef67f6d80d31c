"""Orthogonal matrices: orthogonal at least to PyTorch's rounding, and uniform over all there are."""

import math

import pytest
import torch
from scipy import stats
from torch import Tensor, nn

from firstlight.initialization import orthogonal
from firstlight.initialization.orthogonal import blocks, orthonormal_


def random(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("shape", [(1, 1), (2, 2), (1, 5), (64, 64), (96, 97), (97, 97), (130, 300), (200, 200)])
def test_rows_are_orthonormal(shape: tuple[int, int]) -> None:
    q = orthonormal_(random(*shape))
    torch.testing.assert_close(q @ q.mT, torch.eye(shape[0], dtype=torch.float64), atol=1e-13, rtol=0)


@pytest.mark.parametrize("n", [256, 700])
def test_no_farther_from_orthogonal_than_torch(n: int) -> None:
    theirs = nn.init.orthogonal_(torch.empty(n, n), generator=torch.Generator().manual_seed(0))
    ours = orthonormal_(random(n, n, dtype=torch.float32))
    gaps = [q.double() @ q.double().mT - torch.eye(n, dtype=torch.float64) for q in (ours, theirs)]
    assert float(gaps[0].norm()) <= float(gaps[1].norm())
    assert float(gaps[0].abs().max()) <= float(gaps[1].abs().max())


@pytest.mark.parametrize("block", [2, 96])
def test_matrices_are_uniform_over_the_group(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """An element of a uniform Q is one of a point on the sphere, (1 + q) / 2 is Beta((n-1)/2, (n-1)/2); the traces of
    Q and Q² have means 0 and 1 and variances 1 and 2 (Diaconis and Shahshahani, "On the eigenvalues of random
    matrices", 1994); half of all are rotations; and G Q has the law of Q for any orthogonal G.
    """
    monkeypatch.setattr(orthogonal, "_BLOCK", block)
    count = 1500
    made = torch.stack([orthonormal_(random(6, 6, seed=k)) for k in range(count)])
    turned = orthonormal_(random(6, 6, seed=-1)) @ made
    for q in (made, turned, made.mT):
        for i, j in ((0, 0), (5, 5), (0, 5), (5, 0), (2, 3)):
            assert stats.kstest((1 + q[:, i, j].numpy()) / 2, stats.beta(2.5, 2.5).cdf).pvalue > 1e-3
        for power, mean, variance in ((q, 0, 1), (q @ q, 1, 2)):
            trace = power.diagonal(dim1=1, dim2=2).sum(1)
            assert float(trace.mean()) == pytest.approx(mean, abs=4 * math.sqrt(variance / count))
            assert float(trace.var()) == pytest.approx(variance, rel=0.2)
        assert float(torch.linalg.det(q).mean()) == pytest.approx(0, abs=4 / math.sqrt(count))


@pytest.mark.parametrize(("shape", "count"), [((12, 4), 3), ((24, 3), 3), ((6, 2, 3, 3), 2), ((8, 1, 3, 3), 8)])
def test_packed_matrices_are_orthogonal_one_by_one(shape: tuple[int, ...], count: int) -> None:
    made = blocks(random(*shape), count)
    assert float(made.square().mean()) == pytest.approx(1)
    for matrix in made.view(count, shape[0] // count, -1):
        small = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.mT
        gram = small @ small.mT / max(matrix.shape)
        torch.testing.assert_close(gram, torch.eye(len(small), dtype=torch.float64), atol=1e-13, rtol=0)


def test_the_kernel_of_one_channel_is_uniform_on_the_sphere() -> None:
    made = blocks(random(2000, 1, 5), 2000)[:, 0, 2] / math.sqrt(5)
    assert stats.kstest((1 + made.numpy()) / 2, stats.beta(2, 2).cdf).pvalue > 1e-3
