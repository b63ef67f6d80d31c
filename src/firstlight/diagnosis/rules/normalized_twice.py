"""FL102."""

from collections.abc import Iterator

import numpy as np

from firstlight.diagnosis.case import Case
from firstlight.diagnosis.door import normalizes_itself
from firstlight.diagnosis.finding import Finding
from firstlight.diagnosis.pixels import Pixels, pixels
from firstlight.diagnosis.rule import Rule
from firstlight.diagnosis.treatment import (
    Constants,
    Treatment,
    normalizing_code,
    numbers,
    recognize,
    renormalization,
    single_step,
    wanted,
)

_LARGE = 4.0
"""Second moment from which an unknown double normalization is looked for: one of std σ leaves 1/σ² ≥ 4, since pixels
in 0…1 have σ ≤ 1/2."""


class NormalizedTwice(Rule):
    """The pixels were scaled or normalized twice.

    **Measured.** The spacing of the gray levels in each channel: 1/255² after dividing by 255 twice, 1/(255·std²) after
    normalizing twice. Where floats were resized and the levels are gone: the range, which must be the one that black
    and white have after this treatment.

    **Expected.** One scaling to 0…1 and one normalization: gray levels 1/(255·std) apart. After a second division by
    255 the images have a second moment near 10⁻⁶, and all that the first layer sees is its bias. After a second
    normalization black is at (−mean/std − mean)/std, about −11 with ImageNet's constants, the std is 1/std ≈ 4, and
    the mean about −2 in every image: a direction that all samples share.

    **Usual causes.** ``ToTensor`` (which divides by 255) and another ``/ 255``; a ``Normalize`` in the data set and
    another in the model or the collate function; an image processor with ``do_rescale=True`` on tensors that are in
    0…1 already (huggingface/transformers#25688).

    **Mends it.** Leave one of the two out.
    """

    code = "FL102"
    name = "normalized-twice"
    explains = frozenset(
        {"FL101", "FL103", "FL301", "FL302", "FL303", "FL304", "FL305", "FL308"}
        | {"FL401", "FL402", "FL407", "FL501", "FL601", "FL602"}
    )

    def examine(self, case: Case) -> Iterator[Finding]:
        """At most one finding."""
        seen = pixels(case)
        done = recognize(case, seen) or self._with_unknown_constants(case, seen)
        if done is None or done.fault != "twice":
            return
        aim = wanted(case, seen, done)
        how = "read off the distance of neighbouring gray levels" if done.certain else "judged by the range"
        yield self.finding(
            "warn" if normalizes_itself(case) else "fail",
            "input",
            f"{done.words}: values {seen.low.min():.3g} … {seen.high.max():.3g}, second moment {seen.rms**2:.3g}",
            evidence=f"{how}; this treatment takes black to {numbers(np.broadcast_to(done.shift, seen.channels))} and "
            f"white to {numbers(np.broadcast_to(done.shift + done.factor, seen.channels))}; one normalization would "
            f"take them to {numbers(-aim.mean / aim.std)} and {numbers((1 - aim.mean) / aim.std)}",
            cause="one part of the pipeline scales images that another part has scaled already, or uses constants for "
            "0…255 on pixels in 0…1, which is the same",
            fix="leave one of the two out, so that in all: " + normalizing_code(aim),
            repair=renormalization(done, aim),
        )

    def _with_unknown_constants(self, case: Case, seen: Pixels) -> Treatment | None:
        """(u−m)/s twice is u/s² − m/s² − m/s: the lattice gives s, the darkest value m, and once must look right."""
        once = single_step(case, seen)
        if once is None or seen.rms**2 < _LARGE:
            return None
        std = np.sqrt(once.std)
        mean = -seen.darkest * std**2 / (1 + std)
        back_mean, back_std = seen.mean * std + mean, seen.std * std
        if np.abs(back_mean).max() > 0.5 or back_std.min() < 0.7 or back_std.max() > 1.4 or mean.min() < 0:
            return None
        found = Constants(f"mean {numbers(mean)} and std {numbers(std)}", mean, std)
        shift = (-mean / std - mean) / std
        return Treatment(f"{found.name} applied twice", "twice", 1 / std**2, shift, found)
