"""FL104."""

from collections.abc import Iterator

import numpy as np

from firstlight.diagnosis.case import Case, NotChecked
from firstlight.diagnosis.finding import Finding, Repair
from firstlight.diagnosis.pixels import Pixels, pixels
from firstlight.diagnosis.rule import Rule
from firstlight.diagnosis.treatment import Constants, Treatment, declared, numbers, recognize, renormalization
from firstlight.recipe.known import KNOWN

_OWN, _PUBLISHED = (100.0, 0.01), (1000.0, 0.001)
"""Odds and doubt for numbers of this data, and for published constants, whose photographs may be of another kind."""
_APART = 4.0
"""Standard errors between the two orders below which the batch is too small to tell them apart."""


class SwappedChannels(Rule):
    """The channels are in the order BGR where RGB is meant, in the images or in the constants.

    **Measured.** For each image the mean of red minus that of blue, in units of pixels; and the order in which the
    constants were applied, read off the spacing of the gray levels.

    **Expected.** The difference that the statistics of the training images, the declared constants or the recognized
    published ones have: +0.079 for ImageNet. The other order has its negative. With the standard error of N images the
    two orders are two hypotheses for one mean, and Student's t gives the likelihood of each. Reported when the reverse
    order is a hundred times as likely *and* the right one is refuted at p < 0.01 *and* the reverse one is not: images
    of another kind refute both and say nothing. Against published constants, whose photographs may differ from these,
    it takes a thousand and 0.001, and is a note.

    **Usual causes.** ``cv2.imread`` gives BGR. Constants of networks ported from Caffe are printed in BGR.

    **Mends it.** ``cv2.cvtColor(image, cv2.COLOR_BGR2RGB)``, or ``images[:, [2, 1, 0]]`` before the normalization. A
    network trained from scratch on BGR works as well, as long as it is always given BGR; a pretrained one loses
    some percent of accuracy.
    """

    code = "FL104"
    name = "swapped-channels"

    def examine(self, case: Case) -> Iterator[Finding]:
        """At most one finding."""
        seen = pixels(case)
        if seen.channels != 3:
            raise NotChecked(f"{seen.channels} channels have no order of colours")
        done = recognize(case, seen)
        if done is not None and done.fault == "reversed" and done.constants is not None:
            yield from self._reversed_constants(seen, done, done.constants)
            return
        reference = self._reference(case, done)
        done = done or _as_declared(case)
        if done is None:
            raise NotChecked("the order of channels needs the constants: pass mean= and std=, or statistics=")
        difference = float(reference.mean[0] - reference.mean[2])
        published = any(entry.agrees(reference.mean, None) for entry in KNOWN)
        verdict = _order(_red_minus_blue(seen, done), difference, _PUBLISHED if published else _OWN)
        if verdict is None:
            return
        measured, error, odds = verdict
        yield self.finding(
            "note" if published else "warn",
            "input",
            f"red minus blue is {measured:+.3f} ± {error:.3f}, the reverse of {difference:+.3f}: BGR for RGB",
            evidence=f"{reference.name} has {difference:+.3f}, the reverse order would have {-difference:+.3f}; over "
            f"{len(seen.values)} images the reverse order is {odds:.2g} times as likely",
            cause="cv2.imread reads BGR, and nothing turned the channels around",
            fix="image = cv2.cvtColor(image, cv2.COLOR_BGR2RGB), or images[:, [2, 1, 0]] before the normalization",
            repair=_turned(done),
        )

    def _reference(self, case: Case, done: Treatment | None) -> Constants:
        """Whose red and blue to compare with."""
        stats, given = case.statistics, declared(case)
        if stats is not None and stats.channels == 3 and stats.kind != "float":
            return Constants("the training images", stats.mean, stats.std)
        found = given or (done.constants if done is not None and not done.fault else None)
        if found is None or len(found.mean) != 3:
            raise NotChecked("the order of channels needs the constants: pass mean= and std=, or statistics=")
        if found.mean[0] == found.mean[2]:
            raise NotChecked(f"the constants of {found.name} are the same in both orders; pass statistics=")
        return found

    def _reversed_constants(self, seen: Pixels, done: Treatment, used: Constants) -> Iterator[Finding]:
        # Images in BGR with constants in BGR agree, as networks ported from Caffe want it.
        if _order(_red_minus_blue(seen, done), float(used.mean[0] - used.mean[2]), _PUBLISHED) is not None:
            return
        yield self.finding(
            "warn",
            "input",
            f"the constants of {used.name} were applied in BGR order: {numbers(used.mean[::-1])}",
            evidence=f"the distances of neighbouring gray levels give std {numbers(1 / done.factor)}, the published "
            f"one in reverse; red and blue are off by {abs(used.mean[0] - used.mean[2]) / used.std.mean():.2f} std",
            cause="constants printed for BGR (OpenCV, Caffe), images in RGB",
            fix=f"mean, std = [{', '.join(map(str, used.mean))}], [{', '.join(map(str, used.std))}]",
            repair=renormalization(done, used),
        )


def _as_declared(case: Case) -> Treatment | None:
    given = declared(case)
    if given is None or len(given.mean) != 3:
        return None
    return Treatment("as declared", "", 1 / given.std, -given.mean / given.std, given, certain=False)


def _red_minus_blue(seen: Pixels, done: Treatment) -> np.ndarray:
    """Of each image, in 0…1."""
    channels = (seen.values.mean(axis=(2, 3)) - done.shift) / done.factor
    return np.asarray(channels[:, 0] - channels[:, 2])


def _order(differences: np.ndarray, expected: float, needed: tuple[float, float]) -> tuple[float, float, float] | None:
    """(mean, standard error, odds) when these are differences of the reverse order; None when they are not.

    Raises:
        NotChecked: when there are too few images to know.
    """
    from scipy.stats import t as student

    count = len(differences)
    error = float(differences.std(ddof=1) / np.sqrt(count)) if count > 1 else np.inf
    if not 2 * abs(expected) / max(error, 1e-9) >= _APART:
        raise NotChecked(f"{count} images are too few to tell red from blue by their means")
    mean = float(differences.mean())
    if error == 0:
        return None  # gray images
    right, reverse = ((mean - value) / error for value in (expected, -expected))
    p_right, p_reverse = (2 * float(student.sf(abs(value), count - 1)) for value in (right, reverse))
    # The profile likelihood of a normal mean is (1 + t²/(n−1))^(−n/2).
    odds = ((1 + right**2 / (count - 1)) / (1 + reverse**2 / (count - 1))) ** (count / 2)
    odds_needed, doubt = needed
    return (mean, error, odds) if odds >= odds_needed and p_right < doubt < p_reverse else None


def _turned(done: Treatment) -> Repair:
    """Reverse the channels of normalized images: undo each channel's map, turn around, do the other channel's."""
    factor, shift = (np.broadcast_to(v, 3) for v in (done.factor, done.shift))
    scale = factor / factor[::-1]
    return Repair(
        "images", {"order": [2, 1, 0], "scale": scale.tolist(), "shift": (shift - shift[::-1] * scale).tolist()}
    )
