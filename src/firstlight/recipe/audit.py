"""Are these constants right for this data? Verdicts with their evidence, their confidence, and what nobody can know."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from firstlight._typing import Floats
from firstlight.errors import FirstlightError
from firstlight.recipe.hypotheses import best
from firstlight.recipe.known import KNOWN, Known
from firstlight.recipe.spectra import eigen_verdicts
from firstlight.recipe.verdicts import TITLES, Verdict

if TYPE_CHECKING:
    from firstlight.statistics import Statistics


@dataclass(frozen=True)
class Audit:
    """What was found.

    Attributes:
        verdicts: faults first; a single one without fault when the constants are right.
        unknown: what these statistics cannot tell.
    """

    verdicts: tuple[Verdict, ...]
    unknown: tuple[str, ...]

    @property
    def ok(self) -> bool:
        """Whether no fault was found."""
        return not any(verdict.wrong for verdict in self.verdicts)

    @property
    def faults(self) -> tuple[str, ...]:
        """Short names of the faults, most certain first."""
        wrong = sorted((v for v in self.verdicts if v.wrong), key=lambda v: -v.confidence)
        return tuple(verdict.code for verdict in wrong)

    def __str__(self) -> str:
        lines = ["right" if self.ok else "wrong"]
        for verdict in self.verdicts:
            sign = "✗" if verdict.wrong else "·"
            lines.append(f"{sign} {verdict.title} ({verdict.code}, {verdict.confidence:.1%})")
            lines += [f"    {line}" for line in (verdict.evidence, verdict.fix) if line]
        lines += [f"? {line}" for line in self.unknown]
        return "\n".join(lines)


def audit(
    stats: "Statistics",
    *,
    mean: Sequence[float] | Floats | None = None,
    std: Sequence[float] | Floats | None = None,
    eigval: Sequence[float] | Floats | None = None,
    eigvec: Sequence[Sequence[float]] | Floats | None = None,
) -> Audit:
    """Compare constants with the statistics of the data they are used on.

    Args:
        stats: of that data.
        mean: C numbers in units of full scale (0…1 for integers; floats in their own units).
        std: C numbers likewise.
        eigval: C eigenvalues of the covariance of channels, as for colour augmentation.
        eigvec: C×C, a row for each channel and a column for each eigenvector.

    Returns:
        Verdicts. Confidence is the probability of that explanation among all that are tried; see `hypotheses`.

    Raises:
        FirstlightError: slugs ``nothing-to-audit``, ``wrong-channels`` and ``bad-constants``.
    """
    given_mean, given_std = (_given(value, name, stats) for value, name in ((mean, "mean"), (std, "std")))
    if (eigval is None) != (eigvec is None) or (given_mean is None and given_std is None and eigval is None):
        raise FirstlightError(
            "there are no constants to compare, or eigenvalues without eigenvectors",
            "give mean=, std=, or eigval= and eigvec= together",
            slug="nothing-to-audit",
            call="audit(stats, ...)",
        )
    verdicts: list[Verdict] = []
    if given_mean is not None or given_std is not None:
        verdicts += _channel_verdicts(stats, given_mean, given_std)
    if eigval is not None and eigvec is not None:
        values = _given(eigval, "eigval", stats)
        vectors = np.asarray(eigvec, np.float64)
        if values is None or vectors.shape != (stats.channels, stats.channels) or not np.isfinite(vectors).all():
            raise FirstlightError(
                f"eigvec has the shape {vectors.shape}, not {stats.channels}×{stats.channels} finite numbers",
                "give one row for each channel and one column for each eigenvector",
                slug="bad-constants",
                call="audit(stats, eigvec=...)",
            )
        verdicts += eigen_verdicts(stats, values, vectors, given_std)
    ordered = sorted(verdicts, key=lambda verdict: (not verdict.wrong, -verdict.confidence))
    return Audit(tuple(ordered), _unknown(stats))


def _channel_verdicts(stats: "Statistics", mean: Floats | None, std: Floats | None) -> list[Verdict]:
    found = best(stats, mean, std)
    known, as_printed = _known(mean, std)
    strange = bool(set(found.faults) - {"averaged-std"})
    numbers = _compared(stats, mean, std)
    if not found.faults:
        digits = f"the mean of this data is known to ±{float(np.max(stats.confidence)):.2g}"
        verdicts = [Verdict("right", False, TITLES["right"][0], f"{numbers}; {digits}", "", found.posterior)]
    elif found.faults == ("unexplained",) or (as_printed and strange):
        code = "another-dataset" if known is not None and not known.name.startswith("Inception") else "unexplained"
        title, fix = TITLES[code]
        about = f"these are the constants of {known.name} ({known.source}); " if known is not None else ""
        return [Verdict(code, True, title, about + numbers, fix, found.posterior)]
    else:
        evidence = f"{numbers}; {_explained(found.mean, found.std, mean, std)}"
        verdicts = [
            Verdict(code, True, TITLES[code][0], evidence, TITLES[code][1], found.posterior) for code in found.faults
        ]
    if known is not None:
        remark = f": {known.remark}" if known.remark else ""
        verdicts.append(
            Verdict(
                "known", False, f"these are the published constants of {known.name}", known.source + remark, "", 1.0
            )
        )
    return verdicts


def _known(mean: Floats | None, std: Floats | None) -> tuple[Known | None, bool]:
    """The published constants that these are, and whether as printed: not in 0…255, not as BGR.

    As printed, they need no mistake to explain them.
    """
    for factor in (1.0, 255.0):
        for turn in (slice(None), slice(None, None, -1)):
            scaled = [None if given is None else given[turn] / factor for given in (mean, std)]
            for entry in KNOWN:
                if entry.agrees(*scaled):
                    return entry, factor == 1 and turn == slice(None)
    return None, False


def _given(value: Sequence[float] | Floats | None, name: str, stats: "Statistics") -> Floats | None:
    if value is None:
        return None
    array = np.atleast_1d(np.asarray(value, np.float64))
    if array.shape != (stats.channels,):
        raise FirstlightError(
            f"{name} has {array.size} numbers, the data has {stats.channels} channels",
            "give one number for each channel",
            slug="wrong-channels",
            call=f"audit(stats, {name}=...)",
        )
    if not np.isfinite(array).all() or (name in ("std", "eigval") and (array < 0).any()):
        raise FirstlightError(
            f"{name} = {_row(array)} cannot be", "give finite numbers, and no negative spread", slug="bad-constants"
        )
    return array


def _compared(stats: "Statistics", mean: Floats | None, std: Floats | None) -> str:
    parts = []
    if mean is not None:
        parts.append(f"mean {_row(mean)} given, {_row(stats.mean)} measured")
    if std is not None:
        parts.append(f"std {_row(std)} given, {_row(stats.std)} measured")
    return "; ".join(parts)


def _explained(mean: Floats, std: Floats, given_mean: Floats | None, given_std: Floats | None) -> str:
    parts = [_row(value) for value, given in ((mean, given_mean), (std, given_std)) if given is not None]
    return f"this mistake gives {' and '.join(parts)}"


def _row(values: Floats) -> str:
    return " ".join(f"{value:.4g}" for value in values)


def _unknown(stats: "Statistics") -> tuple[str, ...]:
    lines = [
        f"whether training feeds pixels as they were scanned: order {stats.provenance.channel_order}, "
        f"{'floats as they are' if stats.kind == 'float' else f'{stats.kind} / {stats.full_scale}'}, "
        f"transform {stats.provenance.transform or 'unknown'}"
    ]
    if stats.count < 2:
        lines.append("how far another sample of such images would differ: one image says nothing about that")
    else:
        lines.append(
            f"the mean beyond ±{float(np.max(stats.confidence)):.2g}, with {stats.count:,} images: "
            "constants that differ by less may come from another sample of the same kind"
        )
    lines.append("whether the network was trained with these constants: then they are right for it whatever the data")
    return tuple(lines)
