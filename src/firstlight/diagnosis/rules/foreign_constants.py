"""FL103."""

from collections.abc import Iterator

import numpy as np

from firstlight.diagnosis.case import Case, NotChecked
from firstlight.diagnosis.door import centred_after_first_layer
from firstlight.diagnosis.finding import Finding, Severity
from firstlight.diagnosis.pixels import Pixels, pixels
from firstlight.diagnosis.rule import Rule
from firstlight.diagnosis.treatment import (
    Constants,
    Treatment,
    declared,
    normalizing_code,
    numbers,
    own_constants,
    recognize,
    renormalization,
    single_step,
)
from firstlight.recipe.known import KNOWN

_SAME = 0.02
"""Offset in stds, and deviation of the std, that rounding of constants and other resizing leave."""
_OFFSET, _RATIO = 0.5, 2.0
"""Published constants of photographs differ by at most 0.3 std; averaged and pooled stds by a quarter."""
_FAR = 10.0
"""Second moment, instead of 1, from which foreign constants are a fault: one order of magnitude, as in FL101."""
_GRAY = frozenset(entry.name for entry in KNOWN if len(entry.mean) == 1)


class ForeignConstants(Rule):
    """The images were normalized with constants of other data.

    **Measured.** The constants that were applied: the std is read off the spacing of the gray levels, 1/(255·std), and
    published constants are recognized by it. They are compared with those that were declared, with the statistics of
    the training images, and without both with the batch itself, as far as its number of images allows.

    **Expected.** Mean 0 and std 1 after normalization. Published constants of photographs differ from one another by
    less than 0.3 std, and the two kinds of std in use (averaged over images, pooled) by a quarter: such differences
    change nothing that training would notice, and are silent. Reported are an offset above half a std, a std off by
    more than 2, constants other than the declared ones, and constants of gray images on coloured ones.

    **Usual causes.** A line copied from another project: MNIST's 0.1307/0.3081 for Fashion-MNIST, ImageNet's for X-rays
    or satellite images. With a *pretrained* network its own constants are right, whatever the data.

    **Mends it.** The statistics of your training images: ``firstlight scan``; ``firstlight audit`` names the origin of
    the constants.
    """

    code = "FL103"
    name = "foreign-constants"

    def examine(self, case: Case) -> Iterator[Finding]:
        """At most one finding."""
        seen = pixels(case)
        done = recognize(case, seen)
        if done is None:
            unknown = single_step(case, seen)
            done = Treatment("", "", 1 / unknown.std, -unknown.mean / unknown.std, unknown) if unknown else None
        if done is None or not done.certain:
            raise NotChecked(
                "the gray levels are gone, so the constants that were applied cannot be read off the images"
            )
        if done.fault or done.constants is None:
            return
        if case.statistics is None and done.constants.name in _GRAY and _coloured(seen):
            why = f"published for gray images, these have {seen.channels} different channels"
            yield self._finding("warn", seen, done, done.constants, why, own_constants(seen, done))
        elif (reference := self._reference(case)) is not None:
            yield from self._against(reference, case, seen, done, done.constants)
        else:
            yield from self._against_itself(case, seen, done, done.constants)

    def _reference(self, case: Case) -> Constants | None:
        stats = case.statistics
        if stats is not None and stats.kind != "float":
            return Constants("the training images", stats.mean, stats.std)
        return declared(case)

    def _against(
        self, right: Constants, case: Case, seen: Pixels, done: Treatment, used: Constants
    ) -> Iterator[Finding]:
        if len(right.mean) != seen.channels:
            raise NotChecked(f"{len(right.mean)} constants were given for {seen.channels} channels")
        # A mean read from the lattice alone is known up to the darkest pixel; only its std is compared.
        known = used.name != "unknown origin"
        offset, ratio = (right.mean - used.mean) / used.std * known, right.std / used.std
        same = np.abs(offset).max() <= _SAME and np.abs(ratio - 1).max() <= _SAME
        large = np.abs(offset).max() > _OFFSET or ratio.max() > _RATIO or ratio.min() < 1 / _RATIO
        if same or not (large or case.statistics is None):
            return
        moment = float(np.mean(offset**2 + ratio**2))
        why = (
            f"{right.name} has mean {numbers(right.mean)} and std {numbers(right.std)}: the network sees them with "
            f"mean {numbers(offset)} and std {numbers(ratio)}, 0 and 1 expected"
        )
        severity: Severity = "fail" if not 1 / _FAR < moment < _FAR else "warn"
        yield self._finding(severity, seen, done, used, why, right)

    def _against_itself(self, case: Case, seen: Pixels, done: Treatment, used: Constants) -> Iterator[Finding]:
        """The batch's mean against its own std, and beyond what another batch of as many images could show."""
        means = seen.values.mean(axis=(1, 2, 3))
        error = means.std(ddof=1) / np.sqrt(len(means)) if len(means) > 1 else np.inf
        offset = abs(float(means.mean())) - 3 * error
        if offset <= float(np.sqrt(np.mean(seen.std**2))):
            return
        why = (
            f"these images have mean {numbers(seen.mean)} and std {numbers(seen.std)} after it, 0 and 1 expected; "
            f"{len(means)} images leave ±{3 * error:.2g} of doubt"
        )
        severity: Severity = "note" if case.measured is None or centred_after_first_layer(case) else "warn"
        yield self._finding(severity, seen, done, used, why, own_constants(seen, done))

    def _finding(
        self, severity: Severity, seen: Pixels, done: Treatment, used: Constants, why: str, right: Constants
    ) -> Finding:
        return self.finding(
            severity,
            "input",
            f"the images were normalized with mean {numbers(used.mean)} and std {numbers(used.std)}, of {used.name}",
            evidence=f"read off the distance of neighbouring gray levels, {numbers(1 / used.std / 255)}; {why}",
            cause="constants copied from other data",
            fix=normalizing_code(right) + f"  # constants of {right.name}",
            repair=renormalization(done, right),
        )


def _coloured(seen: Pixels) -> bool:
    return seen.channels > 1 and bool((np.ptp(seen.values, axis=1) > 0.5 * seen.std.min()).mean() > 0.01)
