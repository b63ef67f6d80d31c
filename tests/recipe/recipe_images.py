import numpy as np


def correlated_images(count=40, size=12, channels=3, dtype=np.uint8, seed=0):
    """Smooth correlated images that fill their range, with a different mean and spread per channel."""
    rng = np.random.default_rng(seed)
    base = rng.normal(size=(count, size, size, 1))
    base = (base + np.roll(base, 1, 1) + np.roll(base, 1, 2)) / 2 + rng.normal(size=(count, 1, 1, 1)) * 0.7
    own = rng.normal(size=(count, size, size, channels)) * 0.5
    spread, middle = np.linspace(0.15, 0.2, channels), np.linspace(0.4, 0.55, channels)
    unit = np.clip((base + own) * spread + middle, 0, 1)
    if np.dtype(dtype).kind == "f":
        return (unit * 30 - 10).astype(dtype)
    return np.rint(unit * np.iinfo(dtype).max).astype(dtype)
