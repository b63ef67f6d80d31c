"""The batch as the network sees it, turned back into what an eye can see."""

import numpy as np
import torch
from torch import Tensor

from firstlight.diagnosis import Case
from firstlight.report import CheckViews

_SHOWN = 12
_NAMES = {1: ("gray",), 3: ("red", "green", "blue")}


def check_views(case: Case) -> CheckViews:
    """Some images of the batch and the statistics of its channels; nothing where no input holds images."""
    images = case.images
    if images is None or images.numel() == 0:
        return CheckViews()
    values = images.detach().to("cpu", torch.float32)
    channels = values.transpose(0, 1).flatten(1)
    names = _NAMES.get(len(channels), tuple(str(k) for k in range(len(channels))))
    rows = tuple(
        (name, float(c.mean()), float(c.std(correction=0)), float(c.min()), float(c.max()))
        for name, c in zip(names, channels[:16], strict=False)
    )
    shown, how = _visible(case, values[:_SHOWN])
    labels = case.labels if isinstance(case.labels, Tensor) and case.labels.dim() == 1 else None
    captions = [f"label {labels[k].item():g}" if labels is not None else str(k) for k in range(len(shown))]
    pixels = shown.movedim(1, 3).numpy()
    facts = ("×".join(map(str, images.shape)), str(images.dtype).removeprefix("torch."), str(images.device))
    return CheckViews(tuple(zip(captions, pixels, strict=True)), how, rows, facts)


def _visible(case: Case, values: Tensor) -> tuple[Tensor, str]:
    """uint8 pixels, and how they came about."""
    if case.mean is not None and case.std is not None and len(case.mean) == values.shape[1]:
        mean, std = (torch.tensor(constants)[None, :, None, None] for constants in (case.mean, case.std))
        scaled, how = values * std + mean, "Shown as value × std + mean, with the constants that were given."
    else:
        finite = values[torch.isfinite(values)]
        low, high = (float(finite.min()), float(finite.max())) if finite.numel() else (0.0, 1.0)
        scaled = (values - low) / ((high - low) or 1.0)
        how = f"No constants were given: shown from the smallest value, {low:.3g}, to the largest, {high:.3g}."
    return torch.from_numpy(np.rint(255 * scaled.nan_to_num(0).clamp(0, 1).numpy()).astype(np.uint8)), how
