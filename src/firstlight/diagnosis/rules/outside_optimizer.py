"""FL405."""

from collections.abc import Iterator

from firstlight.diagnosis.case import Case, NotChecked
from firstlight.diagnosis.finding import Finding
from firstlight.diagnosis.places import module_of, several
from firstlight.diagnosis.rule import Rule


class OutsideOptimizer(Rule):
    """The optimizer does not hold parameters that get a gradient, so they never change.

    **Measured:** the parameters in the optimizer's groups against those that require gradients, by identity; and the
    tensors it holds that are no parameters of this model.

    **Expected:** the same set. Parameters that are left out keep their random values (fail); where all of them are the
    first layers of the network, it may be fine-tuning, which freezing would say more plainly (warn).

    **Usual causes:** a head replaced, or a module moved or copied, after the optimizer was made; parameter groups built
    by name or by dimension that leave some out; an optimizer of another copy of the network.

    **Mends it:** make the optimizer last, from `model.parameters()`.
    """

    code = "FL405"
    name = "outside-optimizer"
    explains = frozenset({"FL601"})

    def examine(self, case: Case) -> Iterator[Finding]:
        """At most one finding."""
        facts = case.run.optimizer
        if not facts.given:
            raise NotChecked("no optimizer was given")
        heard = [p.name for p in case.run.steps[0].parameters if p.gradient is not None]
        outside = [name for name in heard if name not in facts.learning_rate]
        if not outside:
            return
        strangers = f"; it holds {facts.strangers} tensors that are not in this model" if facts.strangers else ""
        first = outside[0]
        everything = len(outside) == len(heard)
        beginning = not strangers and outside == heard[: len(outside)] and 2 * len(outside) > len(heard)
        yield self.finding(
            "warn" if beginning and not everything else "fail",
            "optimizer" if everything or not module_of(first) else module_of(first),
            (
                "the optimizer holds none of the parameters"
                if everything
                else f"{several(outside)} is not in the optimizer"
            )
            + strangers,
            evidence=f"{len(outside)} of {len(heard)} parameters with a gradient are in none of {facts.name}'s groups.",
            cause="a module that was replaced, copied or moved after the optimizer was made"
            if facts.strangers
            else "parameter groups that leave some out",
            fix=f"optimizer = torch.optim.{facts.name}(model.parameters(), ...), as the last thing before training",
            victims=tuple(f"{self.code} {m}: not in the optimizer" for m in dict.fromkeys(map(module_of, outside[1:]))),
        )
