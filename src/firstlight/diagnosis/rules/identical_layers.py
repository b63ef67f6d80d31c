"""FL205."""

from collections import defaultdict
from collections.abc import Iterator

import torch

from firstlight.diagnosis.case import Case
from firstlight.diagnosis.finding import Finding, Repair
from firstlight.diagnosis.places import at_parameter, module_of, several
from firstlight.diagnosis.rule import Rule
from firstlight.diagnosis.weights import summing


class IdenticalLayers(Rule):
    """Layers that are not tied have the same weights, number for number.

    **Measured:** weights of equal shape that are equal in every element, are different parameters, were
    drawn (no constants, no identities), and are both trained.

    **Expected:** independent draws. That what one layer does is independent of what the next one does is what every
    derivation of an initialization rests on. Copies in a row repeat one random map: its favoured directions are
    amplified once for every copy. Copies that read the same tensor compute the same thing. Training makes them
    different in the end, so this is no more than a warning.

    **Usual causes:** `copy.deepcopy` of a finished layer, as `nn.TransformerEncoder` does with the layer it is given;
    `torch.manual_seed` inside a constructor or an initializer; shards or workers with one seed.

    **Mends it:** draw the copies again.
    """

    code = "FL205"
    name = "identical-layers"

    def examine(self, case: Case) -> Iterator[Finding]:
        """One finding: the first layer that others are copies of, with its twins."""
        fans = summing(case)
        twins = _twins({n: p.detach() for n, p in case.model.named_parameters() if n in fans and p.requires_grad})
        if not twins:
            return
        originals = sorted(twins, key=lambda name: case.graph.turn(fans[name].node))
        copies = [name for original in originals for name in twins[original]]
        first = originals[0]
        beside = [
            n for n in twins[first] if case.graph[fans[n].node].inputs[0] == case.graph[fans[first].node].inputs[0]
        ]
        yield self.finding(
            "warn",
            title=f"{several(twins[first])} {'has' if len(twins[first]) == 1 else 'have'} the very numbers of {first}"
            + (f", and {len(copies) - len(twins[first])} more weights those of others" if len(twins) > 1 else ""),
            evidence=f"{len(copies)} weights equal another one in every element without being tied to it; independent "
            "draws never do." + (f" {several(beside)} even read the same tensor." if beside else ""),
            cause="a layer that was deep-copied after it had been drawn, or a generator seeded anew for each layer",
            fix='fl.initialize(model, example, scheme="auto", seed=0)',
            victims=tuple(f"{self.code} {module_of(n)}: {n} equals {o}" for o in originals for n in twins[o]),
            repair=Repair("initialize", {"parameters": tuple(copies), "scheme": "auto"}),
            **at_parameter(case.graph, twins[first][0]),
        )


def _twins(parameters: dict[str, torch.Tensor]) -> dict[str, list[str]]:
    """Copies by their original; its own beginning tells most weights apart."""
    alike: dict[tuple[object, ...], list[str]] = defaultdict(list)
    found: dict[str, list[str]] = defaultdict(list)
    for name, values in parameters.items():
        drawn = (values != 0) & (values != values.flatten()[0])
        if float(drawn.float().mean()) < 0.5:
            continue  # a constant, an identity, a mask
        group = alike[(tuple(values.shape), *values.flatten()[:4].tolist())]
        original = next((other for other in group if torch.equal(parameters[other], values)), None)
        if original is None:
            group.append(name)
        else:
            found[original].append(name)
    return dict(found)
