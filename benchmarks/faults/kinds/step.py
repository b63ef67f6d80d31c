"""Faults of the optimizer's step."""

from collections.abc import Callable

from faults.setting import Fault, Places, Setting

_PLACES = ("optimizer",)


def _rate(factor: float) -> Callable[[Setting], Places]:
    def apply(setting: Setting) -> Places:
        for group in setting.optimizer.param_groups:
            group["lr"] *= factor
        return _PLACES

    return apply


def _one_layer(setting: Setting) -> Places:
    """One layer in a group of its own, with a rate of another unit."""
    main = list(setting.get(setting.architecture.main).parameters())
    held = {id(parameter) for parameter in main}
    rest = [p for p in setting.model.parameters() if id(p) not in held]
    rate = setting.optimizer.param_groups[0]["lr"]
    kind = type(setting.optimizer)
    setting.optimizer = kind([{"params": rest}, {"params": main, "lr": rate * 1e4}], lr=rate)
    return ("optimizer", setting.architecture.main)


def _ascent(setting: Setting) -> Places:
    for group in setting.optimizer.param_groups:
        group["maximize"] = True
    return ("optimizer", "loss")


def _negated(setting: Setting) -> Places:
    loss = setting.loss
    setting.loss = lambda output, labels: -loss(output, labels)
    return ("loss", "optimizer")


def _decay(setting: Setting) -> Places:
    """Rate and weight decay swapped: the weights are multiplied by less than zero in every step."""
    for group in setting.optimizer.param_groups:
        group["weight_decay"] = 200 / group["lr"] * 0.01
    return _PLACES


FAULTS = (
    Fault(
        "rate-too-high",
        "a thousand times too high: the first step destroys the weights",
        ("FL601", "FL602"),
        _rate(1e3),
    ),
    Fault("rate-too-low", "a millionth: nothing changes in a whole epoch", ("FL601",), _rate(1e-6)),
    Fault("one-rate-too-high", "one layer is destroyed in the first step", ("FL601", "FL602"), _one_layer),
    Fault("ascent", "the optimizer maximizes", ("FL602",), _ascent),
    Fault("negated-loss", "the loss has the wrong sign", ("FL602", "FL501"), _negated),
    Fault("runaway-decay", "weight decay turns every weight over in a step", ("FL601", "FL602"), _decay),
)
