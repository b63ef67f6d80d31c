"""A comparison → its page: the ranking, the curves with their bands, and how it was made."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from firstlight.report.document import Document, Plot, Section, Series, Table, Text, number, plural

_TOP = 3  # times the loss of chance: where a diverging curve is cut, so that the others can be seen
_TONES = ("blue", "orange", "green", "violet", "red")


@dataclass(frozen=True)
class Contender:
    """A way to start, and what became of it.

    Attributes:
        scheme, recipe: how the weights were drawn, and what was done to the pixels.
        rate: the learning rate it trains best with.
        steps: middle of each stretch of steps.
        losses: mean training loss of each stretch, one row for each seed.
        final: mean loss of the last fifth of the steps, one for each seed; infinite where the run diverged.
        state: "trains", "stalls" (no better than the frequencies of the classes) or "diverges", by the worst seed.
        behind: 95 % interval of the difference to the best contender's final loss; None for the best one, for one
            that diverged, and for a single seed.
        place: rank from 1; those without a clear difference to the best of their group share it.
    """

    scheme: str
    recipe: str
    rate: float
    steps: tuple[float, ...]
    losses: tuple[tuple[float, ...], ...]
    final: tuple[float, ...]
    state: str
    behind: tuple[float, float] | None = None
    place: int = 0

    @property
    def name(self) -> str:
        """Scheme and recipe."""
        return f"{self.scheme}, {self.recipe}"

    @property
    def mean(self) -> float:
        """Mean final loss over the seeds."""
        return sum(self.final) / len(self.final)


def compare_document(
    contenders: Sequence[Contender],
    verdict: str,
    *,
    chance: float,
    subject: str,
    data: str,
    settings: Mapping[str, Any],
) -> Document:
    """The report of `compare`; see `firstlight.workflows.comparing.Comparison` for what its arguments are."""
    recipes = list(dict.fromkeys(contender.recipe for contender in contenders))
    schemes = sorted({contender.scheme for contender in contenders})
    tones = {scheme: _TONES[k % len(_TONES)] for k, scheme in enumerate(schemes)}
    curves = tuple(_curves([c for c in contenders if c.recipe == recipe], recipe, chance, tones) for recipe in recipes)
    trains = sum(contender.state == "trains" for contender in contenders)
    tone = "bad" if trains == 0 else "good" if trains == len(contenders) else "warn"
    rates = ", ".join(f"{rate:g}" for rate in settings["rates"])
    how = (
        f"Each contender tried the learning rates {rates} for a third of the {settings['steps']} steps on the first "
        f"seed (stochastic gradient descent, momentum 0.9, batches of {settings['batch']}) and trained "
        f"{plural(len(settings['seeds']), 'seed')} at the best one. A seed has the same batches for all. Behind is the "
        "95 % interval (Student's t over seeds) of the difference to the lowest final loss; where it holds 0, there is "
        "no clear difference. It stalls when it ends within 5 % of the loss of knowing only how frequent the classes "
        f"are, {number(chance, 3)}."
    )
    return Document(
        f"How should {subject} start?",
        verdict,
        tone,
        (
            Section("Ranking", (_ranking(contenders),)),
            Section("Curves", curves),
            Section("How it was made", (Text(how),)),
        ),
        (f"{settings['images']:,} images of {data}",),
    )


def _ranking(contenders: Sequence[Contender]) -> Table:
    head = ("", "start", "final loss", "seeds", "behind", "rate", "")
    rows = tuple(
        (str(c.place), c.name, _loss(c.mean), _spread(c), _behind(c), f"{c.rate:g}", c.state) for c in contenders
    )
    return Table(head, rows, frozenset({0, 2, 3, 4, 5}))


def _loss(value: float) -> str:
    return number(value, 3) if math.isfinite(value) else "∞"


def _spread(contender: Contender) -> str:
    return f"{_loss(min(contender.final))}…{_loss(max(contender.final))}"


def _behind(contender: Contender) -> str:
    if contender.behind is None:
        return ""
    low, high = contender.behind
    return f"{low:+.2f}…{high:+.2f}"


def _curves(shown: Sequence[Contender], recipe: str, chance: float, tones: dict[str, str]) -> Plot:
    steps = shown[0].steps
    series = [Series("frequencies", "gray", (chance,) * len(steps), "dashed")]
    top = _TOP * chance
    cut = any(loss > top for c in shown for losses in c.losses for loss in losses)
    for c in shown:
        columns = [[min(v, top) for v in column if math.isfinite(v)] for column in zip(*c.losses, strict=True)]
        mean = tuple(sum(column) / len(column) if column else None for column in columns)
        low = tuple(min(column, default=None) for column in columns)
        high = tuple(max(column, default=None) for column in columns)
        series.append(Series(c.scheme, tones[c.scheme], mean, "line", low, high))
    caption = f"Training loss on {recipe}. Line: mean over seeds. Band: from the lowest to the highest of them."
    caption += " Losses above the top edge are cut." if cut else ""
    return Plot(steps, tuple(series), "loss (cross-entropy)", "step", caption)
