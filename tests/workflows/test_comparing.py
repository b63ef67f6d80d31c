"""Rankings with their uncertainty, and runs that are made once."""

import json
import math

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn

import firstlight as fl
from firstlight.cli.main import main
from firstlight.errors import FirstlightError
from firstlight.report import Contender
from firstlight.workflows import comparing
from firstlight.workflows.ranking import interval, ranked, state_of

QUICK = {"steps": 30, "seeds": 3, "limit": 300, "rates": (0.05,), "workers": 1}


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))


def contender(scheme: str, *final: float) -> Contender:
    return Contender(scheme, "resnet", 0.1, (0.0,), tuple((f,) for f in final), final, "trains")


def test_interval_is_that_of_a_paired_t_test():
    random = np.random.default_rng(0)
    a, b = random.normal(1, 0.3, 7), random.normal(0.8, 0.3, 7)
    expected = stats.ttest_rel(a, b).confidence_interval(0.95)
    assert interval(tuple(a), tuple(b)) == pytest.approx((expected.low, expected.high), rel=1e-12)
    assert interval((1.0,), (2.0,)) is None
    assert interval((math.inf, 1.0), (1.0, 1.0)) is None


def test_places_are_shared_until_the_difference_is_clear():
    order = ranked(
        [
            contender("clearly worse", 1.0, 1.01, 1.02),
            contender("best", 0.50, 0.52, 0.51),
            contender("as good", 0.53, 0.50, 0.52),
            contender("gone", math.inf, 1.0, 1.0),
        ]
    )
    assert [(c.scheme, c.place) for c in order] == [("best", 1), ("as good", 1), ("clearly worse", 3), ("gone", 4)]
    assert order[0].behind is None
    assert order[1].behind[0] < 0 < order[1].behind[1]
    assert order[2].behind[0] > 0


def test_states():
    chance = math.log(10)
    assert state_of((0.1, 0.2), chance) == "trains"
    assert state_of((0.1, 2.29), chance) == "stalls"
    assert state_of((0.1, math.inf), chance) == "diverges"


def test_good_starts_beat_zeros_and_the_verdict_says_so(tmp_path):
    found = fl.compare(network(), "demo:digits", tmp_path, schemes=("zeros", "kaiming", "xavier"), **QUICK)
    assert found.contenders[-1].scheme == "zeros"
    assert found.contenders[-1].state == "stalls"
    assert {c.state for c in found.contenders[:2]} == {"trains"}
    assert "Not trained: zeros" in found.verdict
    assert found.chance == pytest.approx(math.log(10), abs=0.02)
    value = json.loads((tmp_path / "compare.json").read_text())
    assert value["format"] == "firstlight.compare/1"
    assert "Ranking" in (tmp_path / "compare.html").read_text()


def test_a_run_is_made_once_and_an_interruption_loses_none(tmp_path, monkeypatch):
    schemes = ("xavier", "kaiming")
    made = []
    train = comparing.train

    def counted(*args, **options):
        made.append(options["rate"])
        if len(made) == 3:
            raise KeyboardInterrupt
        return train(*args, **options)

    monkeypatch.setattr(comparing, "train", counted)
    with pytest.raises(KeyboardInterrupt):
        fl.compare(network(), "demo:digits", tmp_path, schemes=schemes, **QUICK)
    assert not (tmp_path / "compare.json").exists()
    first = fl.compare(network(), "demo:digits", tmp_path, schemes=schemes, **QUICK)
    assert len(made) == 3 + 6  # two of the eight runs were kept
    again = fl.compare(network(), "demo:digits", tmp_path, schemes=schemes, **QUICK)
    assert len(made) == 9
    assert again == first


def test_the_users_network_and_the_global_generator_stay_as_they_were():
    model = network()
    before = [p.clone() for p in model.parameters()]
    state = torch.get_rng_state()
    fl.compare(model, "demo:digits", schemes=("xavier",), **(QUICK | {"steps": 5, "seeds": 1}))
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize(
    ("change", "slug"),
    [
        ({"schemes": ("kaimin",)}, "no-such-scheme"),
        ({"schemes": ("kaiming(2)",)}, "no-such-scheme"),
        ({"schemes": ()}, "no-such-scheme"),
        ({"recipes": ("imagenet",)}, "no-such-recipe"),
    ],
)
def test_bad_names_are_refused_before_any_work(change, slug):
    with pytest.raises(FirstlightError) as error:
        fl.compare(network(), "does/not/exist", **(QUICK | {"schemes": ("xavier",)} | change))
    assert error.value.slug == slug


def test_too_few_outputs_and_missing_classes(tmp_path):
    small = nn.Sequential(nn.Flatten(), nn.Linear(64, 4))
    with pytest.raises(FirstlightError) as error:
        fl.compare(small, "demo:digits", schemes=("xavier",), **QUICK)
    assert error.value.slug == "too-few-outputs"
    np.save(tmp_path / "images.npy", np.zeros((8, 8, 8, 1), np.uint8))
    with pytest.raises(FirstlightError) as error:
        fl.compare(network(), str(tmp_path / "images.npy"), schemes=("xavier",), **QUICK)
    assert error.value.slug == "no-classes"


def test_command_line(tmp_path, capsys):
    (tmp_path / "net.py").write_text(
        "from torch import nn\n\ndef build():\n    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))\n"
    )
    arguments = ["compare", f"{tmp_path}/net.py:build", "demo:digits", "--schemes", "normal(0.01)", "--steps", "10",
                 "--seeds", "1", "--limit", "100", "--rates", "0.05", "-o", str(tmp_path / "out")]  # fmt: skip
    with pytest.raises(SystemExit) as done:
        main(arguments)
    assert done.value.code == 0
    assert "normal(0.01), resnet" in capsys.readouterr().out
    with pytest.raises(SystemExit) as done:
        main([*arguments, "--json"])
    assert done.value.code == 0
    assert json.loads(capsys.readouterr().out)["contenders"][0]["rate"] == 0.05
    with pytest.raises(SystemExit) as done:
        main([*arguments[:-8], "--rates", "fast"])
    assert done.value.code == 2
