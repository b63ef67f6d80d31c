"""The kernels that the theory foresees are those of wide networks, as `kernel_references` measures them."""

import pytest
import torch
from kernel_references import STACKS, kernel, references

DRAWS, WIDTH = 16, 256
# What a width of 256 still lacks of an infinite one, and pairs of places at a border, which are taken as alike.
FINITE = 0.02


@pytest.mark.parametrize("name", STACKS)
def test_kernels_agree_with_monte_carlo_within_its_error(name):
    entries = references(name, DRAWS, WIDTH)
    assert {e.what for e in entries} >= {"second", "other"}
    wrong = [e for e in entries if abs(e.foreseen - e.measured) > 4 * e.error + FINITE * abs(e.measured)]
    assert not wrong


def test_a_kernel_is_measured_as_it_is_defined():
    x = torch.randn(3, 5, 2, 2, generator=torch.Generator().manual_seed(0)).double()
    flat = x.flatten(2)
    far = [
        float((flat[n, :, i] * flat[n, :, j]).mean()) for n in range(3) for i in range(4) for j in range(4) if i != j
    ]
    other = [
        float((flat[n, :, i] * flat[m, :, j]).mean())
        for n in range(3) for m in range(3) if n != m for i in range(4) for j in range(4)
    ]  # fmt: skip
    assert kernel(x) == pytest.approx((float((x**2).mean()), sum(far) / len(far), sum(other) / len(other)))
