"""A comparison → its page: the ranking, the curves with their bands, and how it was made."""

import math
from typing import TYPE_CHECKING

from firstlight.report.document import Document, Plot, Section, Series, Table, Text, number, plural

if TYPE_CHECKING:
    from firstlight.workflows.comparing import Comparison
    from firstlight.workflows.ranking import Contender

_TOP = 3  # times the loss of chance: where a diverging curve is cut, so that the others can be seen
_TONES = ("blue", "orange", "green", "violet", "red")


def compare_document(comparison: "Comparison") -> Document:
    """The report of `compare`."""
    c, settings = comparison, comparison.settings
    recipes = list(dict.fromkeys(contender.recipe for contender in c.contenders))
    schemes = sorted({contender.scheme for contender in c.contenders})
    tones = {scheme: _TONES[k % len(_TONES)] for k, scheme in enumerate(schemes)}
    curves = tuple(_curves(c, recipe, tones) for recipe in recipes)
    trains = sum(contender.state == "trains" for contender in c.contenders)
    tone = "bad" if trains == 0 else "good" if trains == len(c.contenders) else "warn"
    rates = ", ".join(f"{rate:g}" for rate in settings["rates"])
    how = (
        f"Each contender tried the learning rates {rates} for a third of the {settings['steps']} steps on the first "
        f"seed (stochastic gradient descent, momentum 0.9, batches of {settings['batch']}) and trained "
        f"{plural(len(settings['seeds']), 'seed')} at the best one. A seed has the same batches for all. Behind is the "
        "95 % interval (Student's t over seeds) of the difference to the lowest final loss; where it holds 0, there is "
        "no clear difference. It stalls when it ends within 5 % of the loss of knowing only how frequent the classes "
        f"are, {number(c.chance, 3)}."
    )
    return Document(
        f"How should {c.subject} start?",
        c.verdict,
        tone,
        (Section("Ranking", (_ranking(c),)), Section("Curves", curves), Section("How it was made", (Text(how),))),
        (f"{settings['images']:,} images of {c.data}",),
    )


def _ranking(comparison: "Comparison") -> Table:
    head = ("", "start", "final loss", "seeds", "behind", "rate", "")
    rows = tuple(
        (str(c.place), c.name, _loss(c.mean), _spread(c), _behind(c), f"{c.rate:g}", c.state)
        for c in comparison.contenders
    )
    return Table(head, rows, frozenset({0, 2, 3, 4, 5}))


def _loss(value: float) -> str:
    return number(value, 3) if math.isfinite(value) else "∞"


def _spread(contender: "Contender") -> str:
    return f"{_loss(min(contender.final))}…{_loss(max(contender.final))}"


def _behind(contender: "Contender") -> str:
    if contender.behind is None:
        return ""
    low, high = contender.behind
    return f"{low:+.2f}…{high:+.2f}"


def _curves(comparison: "Comparison", recipe: str, tones: dict[str, str]) -> Plot:
    shown = [c for c in comparison.contenders if c.recipe == recipe]
    steps = shown[0].steps
    series = [Series("frequencies", "gray", (comparison.chance,) * len(steps), "dashed")]
    top = _TOP * comparison.chance
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
