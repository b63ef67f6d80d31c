"""FL101."""

from collections.abc import Iterator

import numpy as np

from firstlight.diagnosis.case import Case
from firstlight.diagnosis.door import centred_after_first_layer, normalizes_itself
from firstlight.diagnosis.finding import Finding, Severity
from firstlight.diagnosis.pixels import Pixels, pixels
from firstlight.diagnosis.rule import Rule
from firstlight.diagnosis.treatment import (
    Constants,
    Treatment,
    declared,
    normalizing_code,
    numbers,
    recognize,
    renormalization,
    wanted,
)

_OFF, _FAR = 10.0, 100.0
"""Factors of the second moment: too large by one order of magnitude is worth a warning, by two a fault; too small,
where biases soon take over, by two and by four."""
_CLIPPED, _MUCH = 0.01, 0.25
"""Share of clipped values that is worth a warning, and that is a fault; overshoot of bicubic resizing is less."""
_OFFSET = 25.0
"""Energy of the mean over that of the differences: images five stds from zero look alike to the first layer."""


class UnnormalizedInput(Rule):
    """The images do not have the mean and the scale that the network's weights are made for.

    **Measured.** The spacing of the gray levels in each channel, which tells what was done to the pixels whatever the
    images show (1: raw; 1/255: x/255; 1/(255·std): normalized), otherwise the range and the moments of the batch.

    **Expected.** Initializations keep the second moment of a signal: it comes out of the network as it went in. He's
    and Xavier's derivations start from an input of mean 0 and variance 1. Raw pixels have a second moment of about
    20,000, and the first scores and their loss grow with its root. An input whose mean is large against its std gives
    every sample nearly the same pre-activations, and the loss surface one direction that is far steeper than the
    rest (LeCun et al., 1998, §4.3). Pixels in 0…1 are in between: a note, or a warning where no batch normalization
    takes their mean away after the first layer and the mean holds more than half of the energy.

    A network that begins by normalizing what it gets (a normalization layer, or arithmetic with constants) is clean.
    Numbers that no usual treatment explains are reported when their second moment is too large by an order of
    magnitude, or too small by two, since biases soon take over there.

    **Usual causes.** No ``Normalize`` after ``ToTensor``; images as uint8 arrays that skipped ``ToTensor``; constants
    for 0…1 on pixels in 0…255; 16-bit pixels divided by 255.

    **Mends it.** Scale to 0…1 once, then subtract the mean and divide by the std of the training images
    (``firstlight scan``, ``Recipe.resnet``).
    """

    code = "FL101"
    name = "unnormalized-input"
    explains = frozenset({"FL302", "FL303", "FL304", "FL305", "FL308", "FL402", "FL407", "FL501", "FL601", "FL602"})

    def examine(self, case: Case) -> Iterator[Finding]:
        """At most one finding."""
        seen = pixels(case)
        if normalizes_itself(case):
            return
        done = recognize(case, seen)
        if seen.clipped > _CLIPPED:
            yield self._clipped(seen)
        elif done is None:
            yield from self._by_moments(seen)
        elif done.fault in ("raw", "range", "centred", "unit"):
            yield self._named(case, seen, done)

    def _clipped(self, seen: Pixels) -> Finding:
        assert seen.step is not None, "clipping is seen on the lattice"
        return self.finding(
            "fail" if seen.clipped > _MUCH else "warn",
            "input",
            f"normalized values were clipped to {seen.low[0]:.4g} … {seen.high[0]:.4g}: {seen.clipped:.0%} are at a "
            "limit",
            evidence=f"gray levels are {numbers(seen.step)} apart, as after a division by std "
            f"{numbers(1 / seen.step / 255)}, "
            f"and would reach beyond both limits, which are no levels themselves and the same in every channel",
            cause="a clamp or a colour transform for pictures in 0…1, after the normalization",
            fix="clamp, and change colours, before the normalization",
        )

    def _named(self, case: Case, seen: Pixels, done: Treatment) -> Finding:
        aim = wanted(case, seen, done)
        evidence = (
            f"mean {numbers(seen.mean)} and std {numbers(seen.std)} measured, 0 and 1 expected: a network initialized "
            f"to keep the second moment takes this one, {seen.rms**2:.3g}, to its last layer"
        )
        if done.certain:
            evidence += "; read off the distance of neighbouring gray levels"
        return self.finding(
            self._severity(case, seen, done),
            "input",
            f"{done.words}: second moment {seen.rms**2:.3g} instead of 1",
            evidence=evidence,
            cause=_CAUSES[done.fault],
            fix=normalizing_code(aim) + f"  # constants of {aim.name}",
            repair=renormalization(done, aim),
        )

    def _severity(self, case: Case, seen: Pixels, done: Treatment) -> Severity:
        if done.fault == "raw" and seen.rms**2 <= _FAR:
            return "warn"
        if done.fault == "centred":
            return "warn" if centred_after_first_layer(case) else "fail"
        if done.fault != "unit" or declared(case) is not None:
            return "fail"
        heavy = float(np.mean(seen.mean**2)) > float(np.mean(seen.std**2))
        return "warn" if heavy and case.measured is not None and not centred_after_first_layer(case) else "note"

    def _by_moments(self, seen: Pixels) -> Iterator[Finding]:
        moment = seen.rms**2
        offset = float(np.mean(seen.mean**2) / np.mean(seen.std**2))
        far = moment > _FAR or moment < 1 / _FAR**2 or offset > _FAR * _OFFSET
        if moment > _OFF or moment < 1 / _FAR:
            title = f"second moment {moment:.3g} instead of 1"
        elif offset > _OFFSET:
            title = f"the mean holds {offset / (1 + offset):.1%} of the input's energy instead of a small part"
        else:
            return
        own = Constants("this batch", seen.mean, np.where(seen.std > 0, seen.std, 1))
        yield self.finding(
            "fail" if far else "warn",
            "input",
            title,
            evidence=f"mean {numbers(seen.mean)} and std {numbers(seen.std)} in this batch, 0 and 1 expected: weights "
            "are initialized to keep the second moment of their input",
            cause="the images were not normalized, or with constants that are not theirs; no usual way explains them",
            fix="subtract the mean and divide by the std of the training images: firstlight scan, Recipe.resnet",
            repair=renormalization(Treatment("as they are", "", np.ones(1), np.zeros(1)), own),
        )


_CAUSES: dict[str, str] = {
    "raw": "the scaling to 0…1 and the normalization were left out",
    "range": "the constants belong to pixels of another range",
    "centred": "the std was left out, as networks ported from Caffe want it; others do not",
    "unit": "ToTensor without Normalize",
}
