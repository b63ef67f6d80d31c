"""What was done to the pixels before they came here, by name: every usual way is a hypothesis, y = factor·u + shift.

u is the pixel in 0…1. Where gray levels lie on a lattice, a hypothesis has to predict its spacing, factor/levels, in
every channel to 0.2 %, and the place of the smallest value on it to a fifth of a level; published constants differ
by more, and chance passes two such channels once in ten thousand. Without a lattice a hypothesis must bring the
images back into 0…1 and fill most of it, since a batch of photographs has nearly black and nearly white pixels.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from firstlight._typing import Floats
from firstlight.diagnosis.case import Case
from firstlight.diagnosis.finding import Repair
from firstlight.diagnosis.pixels import Pixels
from firstlight.recipe.known import KNOWN

Fault = Literal["", "unit", "raw", "range", "centred", "twice", "reversed"]

_LEVELS = {255: "0…255", 65535: "0…65535"}
_FEW = 51
"""Levels, a fifth of 255, that a channel must span before it is taken for an 8-bit image: a mask has two."""
_FACTOR, _PLACE = 2e-3, 0.2
_FILLED, _HARMLESS, _ALIKE = 0.8, 0.5, 0.1
"""Part of 0…1 that images must fill under a fault and under a harmless treatment, and what tells two of them apart."""
_MARGIN = 0.06
"""How far bicubic resizing overshoots black and white."""


@dataclass(frozen=True, eq=False)
class Constants:
    """A mean and a std, full scale, and whose they are."""

    name: str
    mean: Floats
    std: Floats


@dataclass(frozen=True, eq=False)
class Treatment:
    """One way in which pixels are treated.

    Attributes:
        words: what was done ("the constants of ImageNet were applied twice").
        fault: the kind of mistake; empty for none.
        factor: C; the result is ``factor·u + shift`` for pixels u in 0…1.
        shift: C.
        constants: those that were applied, last if there were several.
        certain: whether it was read off the gray levels, and not only off the range.
    """

    words: str
    fault: Fault
    factor: Floats
    shift: Floats
    constants: Constants | None = None
    certain: bool = True


def known_constants(case: Case, channels: int) -> list[Constants]:
    """Declared constants first, then those of the statistics, then published ones that have this many channels."""
    found = declared(case)
    constants = [found] if found is not None and len(found.mean) == channels else []
    stats = case.statistics
    if stats is not None and stats.channels == channels and stats.kind != "float":
        constants.append(Constants("the training images", stats.mean, stats.std))
        constants.append(Constants("the training images, with averaged std", stats.mean, stats.per_image_std))
    return constants + _published(channels)


def _published(channels: int) -> list[Constants]:
    """Those for this many channels; those of gray images, and Inception's one number for all channels, fit any."""
    found = []
    for entry in KNOWN:
        if entry.std is None or not (len(entry.mean) in (1, channels) or entry.name == "Inception"):
            continue
        fits = len(entry.mean) == channels
        mean, std = (np.array(v) if fits else np.full(channels, v[0]) for v in (entry.mean, entry.std))
        found.append(Constants(entry.name, mean, std))
    return found


def declared(case: Case) -> Constants | None:
    """The constants that the caller says were used."""
    if case.mean is None or case.std is None:
        return None
    mean, std = np.array(case.mean), np.array(case.std)
    same = (c.name for c in _published(len(mean)) if np.abs(mean - c.mean).max() + np.abs(std - c.std).max() < 1e-3)
    return Constants(next(same, "the declared data"), mean, std)


def recognize(case: Case, seen: Pixels) -> Treatment | None:
    """The treatment that explains the batch; None when no usual one does. Harmless ones come before faults."""
    hypotheses = list(_hypotheses(known_constants(case, seen.channels), _levels(seen)))
    if seen.step is not None and (seen.span >= _FEW).any():
        return next((h for h in hypotheses if _on_the_lattice(h, seen)), None) or _by_spacing(seen)
    return _integers(seen) or _by_range(hypotheses, seen)


def single_step(case: Case, seen: Pixels) -> Constants | None:
    """Constants of (u − mean)/std that explain the lattice, where no published ones do.

    None without a lattice, or where they would be no constants for pixels in 0…1.

    The lattice gives the std exactly, and the mean up to whole gray levels: the smallest value is taken for black.
    """
    if seen.step is None or (seen.span < _FEW).all():
        return None
    std = 1 / (seen.step * _levels(seen))
    if std.min() < 0.01 or std.max() > 1.5:  # no std of pixels in 0…1
        return None
    return Constants("unknown origin", -seen.darkest * std, std)


def _levels(seen: Pixels) -> int:
    return 65535 if seen.step is not None and (seen.span > 255.5).any() else 255


def _hypotheses(constants: list[Constants], levels: int) -> Iterator[Treatment]:
    one, zero = np.ones(1), np.zeros(1)
    for c in constants:
        yield Treatment(f"(x/{levels} − mean)/std with the constants of {c.name}", "", 1 / c.std, -c.mean / c.std, c)
    yield Treatment(f"x/{levels} and nothing else", "unit", one, zero)
    for c in constants:
        yield Treatment(f"x/{levels} minus the mean of {c.name}", "", one, -c.mean, c)
    yield Treatment(f"raw pixels, {_LEVELS[levels]}", "raw", levels * one, zero)
    yield Treatment(f"x/{levels} applied twice", "twice", one / levels, zero)
    yield Treatment("16-bit pixels divided by 255", "range", 257 * one, zero)
    for c in constants:
        yield from _mistakes(c, levels)
    for first in constants:
        yield from (_composed(first, then) for then in constants if first is not then)


def _mistakes(c: Constants, levels: int) -> Iterator[Treatment]:
    mean, std, whose = c.mean, c.std, f"the constants of {c.name}"
    yield _composed(c, c)
    yield Treatment(f"x/{levels} applied twice, then {whose}", "twice", 1 / (levels * std), -mean / std, c)
    yield Treatment(f"{whose}, which are for 0…1, on raw pixels", "range", levels / std, -mean / std, c)
    yield Treatment(
        f"{whose} times {levels}, which are for raw pixels, on pixels in 0…1",
        "range",
        1 / (levels * std),
        -mean / std,
        c,
    )
    yield Treatment(f"raw pixels minus the mean of {c.name}", "centred", np.full(1, float(levels)), -levels * mean, c)
    yield Treatment(f"{whose} in reverse order", "reversed", 1 / std[::-1], -mean[::-1] / std[::-1], c)


def _composed(first: Constants, then: Constants) -> Treatment:
    words = (
        f"the constants of {first.name} applied twice"
        if first is then
        else f"the constants of {first.name} applied, then those of {then.name}"
    )
    shift = (-first.mean / first.std - then.mean) / then.std
    return Treatment(words, "twice", 1 / (first.std * then.std), shift, then)


def _on_the_lattice(h: Treatment, seen: Pixels) -> bool:
    assert seen.step is not None, "asked only where there is one"
    levels = _levels(seen)
    close = np.abs(seen.step * levels / h.factor - 1) <= _FACTOR
    darkest = (seen.darkest - h.shift) / seen.step
    on = np.abs(darkest - np.round(darkest)) <= _PLACE
    inside = (darkest >= -_PLACE) & (darkest + seen.span <= levels + _PLACE)
    # 0.2 % of 65535 levels are more than a fifth of a level: 16-bit lattices are not told apart by place.
    return bool((close & inside & (on | (levels > 255))).all())


def _by_spacing(seen: Pixels) -> Treatment | None:
    """What is known from the spacing alone: the scale, with a mean that nobody published."""
    assert seen.step is not None, "asked only where there is a lattice"
    levels = _levels(seen)
    cases: tuple[tuple[float, str, Fault], ...] = (
        (1.0, f"x/{levels} minus a mean", ""),
        (float(levels), "raw pixels minus a mean", "centred"),
        (1 / levels, f"x/{levels} applied twice, minus a mean", "twice"),
    )
    for factor, words, fault in cases:
        if (np.abs(seen.step * levels / factor - 1) <= _FACTOR).all():
            return Treatment(words, fault, np.full(1, factor), seen.darkest)
    return _integers(seen)


def _integers(seen: Pixels) -> Treatment | None:
    """Whole numbers, whatever their largest one may be."""
    if seen.step is None or np.abs(np.stack([seen.step, seen.low]) % 1).max() > 0 or seen.low.min() < 0:
        return None
    full = 255 if seen.high.max() <= 255 else 65535
    return Treatment(f"raw pixels, 0…{seen.high.max():.0f}", "raw", np.full(1, float(full)), np.zeros(1))


def _by_range(hypotheses: list[Treatment], seen: Pixels) -> Treatment | None:
    """The first that fills 0…1 nearly as well as the best does, from the harmless ones if they fit at all."""
    fits: list[tuple[float, Treatment]] = []
    for h in hypotheses:
        low, high = (seen.low - h.shift) / h.factor, (seen.high - h.shift) / h.factor
        if low.min() >= -_MARGIN and high.max() <= 1 + _MARGIN:
            fits.append((float((high - low).mean()), h))
    harmless = [fit for fit in fits if fit[1].fault in ("", "unit") and fit[0] >= _HARMLESS]
    normal = 0.25 < seen.rms**2 < 4 and np.mean(seen.mean**2) < np.mean(seen.std**2)
    # Numbers with a mean near 0 and a std near 1 are as they should be: no fault has to explain their range.
    candidates = harmless or ([] if normal else [fit for fit in fits if fit[0] >= _FILLED])
    best = max((filled for filled, _ in candidates), default=0.0)
    found = next((h for filled, h in candidates if filled >= best - _ALIKE), None)
    return None if found is None else replace(found, certain=False)


def wanted(case: Case, seen: Pixels, done: Treatment) -> Constants:
    """The constants to normalize with: declared, of the training images, published, or else this batch's own."""
    known = known_constants(case, seen.channels)
    if known and (case.mean is not None or case.statistics is not None):
        return known[0]
    if done.constants is not None:
        return done.constants
    return own_constants(seen, done)


def own_constants(seen: Pixels, done: Treatment) -> Constants:
    """The batch's own mean and std, in units of pixels; 1 for the std of a constant channel."""
    std: Floats = np.where(seen.std > 0, seen.std / np.abs(done.factor), 1)
    return Constants("this batch", (seen.mean - done.shift) / done.factor, std)


def renormalization(done: Treatment, wanted: Constants) -> Repair:
    """What turns the images as they are into ``(u − mean)/std``: u is (y − shift)/factor."""
    channels = len(wanted.mean)
    scale = np.broadcast_to(1 / (wanted.std * done.factor), channels)
    shift = (-done.shift / done.factor - wanted.mean) / wanted.std
    return Repair("images", {"scale": scale.tolist(), "shift": np.broadcast_to(shift, channels).tolist()})


def numbers(values: Floats) -> str:
    """Channels' numbers for people."""
    return " ".join(f"{value:.4g}" for value in values)


def normalizing_code(constants: Constants) -> str:
    """Code that normalizes raw 8-bit images as it should be."""
    mean, std = (", ".join(f"{v:.4g}" for v in values) for values in (constants.mean, constants.std))
    return f"images = torchvision.transforms.functional.normalize(images.float() / 255, [{mean}], [{std}])"
