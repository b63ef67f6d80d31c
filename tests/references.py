"""Statistics as a textbook computes them: all pixels in memory, two passes, float64. Nothing of firstlight's code."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats as scipy_stats

Array = NDArray[Any]


@dataclass(frozen=True)
class Reference:
    """What `Statistics` should say, in raw units: shapes C, C×C, H×W×C."""

    pixels: Array
    mean: Array
    std: Array
    low: Array
    high: Array
    covariance: Array
    per_image_std: Array
    between: Array
    confidence: Array
    values: list[Array]


def two_pass(images: Sequence[Array], valid: Sequence[Array] | None = None) -> Reference:
    """Of images H×W×C of any sizes; non-finite values and those that are not `valid` are left out."""
    channels = images[0].shape[2]
    flat = [image.reshape(-1, channels).astype(np.float64) for image in images]
    masks = [np.isfinite(f) for f in flat]
    if valid is not None:
        masks = [m & np.asarray(v).reshape(-1, channels) for m, v in zip(masks, valid, strict=True)]
    every, mask = np.concatenate(flat), np.concatenate(masks)
    values = [every[mask[:, c], c] for c in range(channels)]
    mean = np.array([v.mean() for v in values])
    complete = every[mask.all(axis=1)]
    centred = complete - complete.mean(axis=0)
    stds, between, confidence = [], [], []
    for c in range(channels):
        own = [f[m[:, c], c] for f, m in zip(flat, masks, strict=True) if m[:, c].any()]
        stds.append(np.mean([o.std() for o in own]))
        n = len(own)
        counts = np.array([len(o) for o in own])
        # The ratio estimator of Cochran (1977), eq. 6.13: for equal sizes the sample variance of image means.
        residuals = np.array([(o - mean[c]).sum() for o in own])
        between.append((residuals**2).sum() / (n - 1) / counts.mean() ** 2 if n > 1 else np.nan)
        confidence.append(scipy_stats.t.ppf(0.975, n - 1) * np.sqrt(between[-1] / n) if n > 1 else np.nan)
    return Reference(
        np.array([len(v) for v in values]),
        mean,
        np.array([np.sqrt(((v - m) ** 2).mean()) for v, m in zip(values, mean, strict=True)]),
        np.array([v.min() for v in values]),
        np.array([v.max() for v in values]),
        centred.T @ centred / len(complete),
        np.array(stds),
        np.array(between),
        np.array(confidence),
        values,
    )
