"""Eigenvalues and eigenvectors of the channels: do they belong to the std, and to the data?

The diagonal of V Λ Vᵀ is the variance of every channel, so √diag(VΛVᵀ) must be the std that is published beside the
eigenvalues. COCO's are (to 8 digits); those of fb.resnet.torch give 0.2837 0.2763 0.2897 where its own file says
0.229 0.224 0.225.
"""

from collections.abc import Iterator
from itertools import product
from typing import TYPE_CHECKING

import numpy as np

from firstlight._typing import Floats
from firstlight.recipe.verdicts import TITLES, Verdict

if TYPE_CHECKING:
    from firstlight.statistics import Statistics

_ROUNDED = 0.01
"""Relative error that printed digits explain in a std, and in VᵀV."""


def implied_std(values: Floats, vectors: Floats) -> Floats:
    """√diag(VΛVᵀ): the std of every channel that eigenvalues (C) and eigenvectors (C×C, columns) stand for."""
    return np.sqrt((np.asarray(vectors) ** 2) @ np.asarray(values))


def eigen_verdicts(stats: "Statistics", values: Floats, vectors: Floats, std: Floats | None) -> list[Verdict]:
    """What is wrong with eigenvalues (C) and eigenvectors (C×C, a row per channel)."""
    verdicts = []
    skew = float(np.abs(vectors.T @ vectors - np.eye(len(values))).max())
    if skew > _ROUNDED:
        verdicts.append(_verdict("eigen-not-orthonormal", f"VᵀV differs from the identity by {skew:.2g}", 1.0))
    if std is not None:
        implied = implied_std(values, vectors)
        off = float(np.abs(implied / np.maximum(std, 1e-12) - 1).max())
        if off > _ROUNDED:
            shown = f"√diag(VΛVᵀ) = {_row(implied)}, std {_row(std)} given"
            verdicts.append(_verdict("eigen-contradicts-std", shown, 1.0))
    verdicts += _against_data(stats, values, vectors)
    return verdicts


def _against_data(stats: "Statistics", values: Floats, vectors: Floats) -> list[Verdict]:
    """Compare VΛVᵀ under every mistake with the covariance of the data, by relative Frobenius norm."""
    covariance = stats.covariance
    norm = float(np.linalg.norm(covariance))
    other = 0.01 + min(1.5 * np.sqrt(2 / max(stats.count, 1)), 0.1)
    errors = {
        names: float(np.linalg.norm(implied - covariance)) / norm for names, implied in _implied(stats, values, vectors)
    }
    scores = {names: _log_density(error, other) + len(names) * np.log(0.2) for names, error in errors.items()}
    winner = max(scores, key=lambda names: scores[names])
    weights = {names: np.exp(score - scores[winner]) for names, score in scores.items()}
    something_else = float(np.exp(np.log(0.05) - scores[winner]))
    confidence = 1 / (sum(weights.values()) + something_else)
    measured = f"eigenvalues {_row(values)} given, {_row(stats.eigen[0])} measured"
    if something_else > 1:
        evidence = f"{measured}; VΛVᵀ differs from the covariance by {errors[()]:.0%} of its norm"
        return [_verdict("eigen-of-other-data", evidence, something_else * confidence)]
    evidence = f"{measured}; VΛVᵀ is within {errors[winner]:.2%} of the covariance"
    if not winner:
        return [Verdict("right", False, "the eigenvalues fit this data", evidence, "", confidence)]
    return [_verdict(code, f"{evidence} once this is mended", confidence) for code in winner]


def _implied(stats: "Statistics", values: Floats, vectors: Floats) -> Iterator[tuple[tuple[str, ...], Floats]]:
    """VΛVᵀ with every mistake mended, and which it was."""
    forms = {"": vectors, "eigen-transposed": vectors.T}
    if stats.channels == 3:
        forms["eigen-bgr-for-rgb"] = vectors[::-1]
    full = 255.0 if stats.kind == "float" else float(stats.full_scale)
    scales = [("", values), ("eigen-roots", values**2)]
    scales += [("eigen-range", values / factor) for factor in (full**2, full, 1 / full**2)]
    best: dict[tuple[str, ...], tuple[float, Floats]] = {}
    for (form, turned), (scale, scaled) in product(forms.items(), scales):
        names = tuple(name for name in (form, scale) if name)
        implied = np.asarray((turned * scaled) @ turned.T)
        error = float(np.linalg.norm(implied - stats.covariance))
        if names not in best or error < best[names][0]:
            best[names] = (error, implied)
    for names, (_, implied) in best.items():
        yield names, implied


def _log_density(error: float, other: float) -> float:
    """As in `hypotheses`: these very images, but for rounding, or another sample of the same kind."""
    same = 2e-3
    halves = [-0.5 * (error / sigma) ** 2 - np.log(sigma) for sigma in (same, np.hypot(same, other))]
    return float(np.logaddexp(*halves) + np.log(0.5))


def _verdict(code: str, evidence: str, confidence: float) -> Verdict:
    title, fix = TITLES[code]
    return Verdict(code, True, title, evidence, fix, confidence)


def _row(values: Floats) -> str:
    return " ".join(f"{value:.4g}" for value in values)
