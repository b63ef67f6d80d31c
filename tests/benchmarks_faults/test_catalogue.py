"""The benchmark is only worth something while it is what it says: frozen, large enough, and made of real faults."""

import hashlib
import importlib.util
from collections import Counter
from pathlib import Path
from types import ModuleType

import pytest
import torch

from faults.architectures import ARCHITECTURES
from faults.catalogue import FAULTS, cases, excluded, half
from faults.peers import PEERS
from faults.score import Alarm, Row, at
from faults.setting import healthy

CASES = {case.name: case for case in cases()}


def test_there_are_as_many_kinds_and_networks_as_promised() -> None:
    per_kind = Counter(case.fault.name for case in CASES.values())
    assert sum(count >= 5 for count in per_kind.values()) >= 40
    assert len(ARCHITECTURES) >= 7


def test_every_combination_is_a_case_or_has_a_reason_not_to_be() -> None:
    left_out = dict(excluded())
    assert not left_out.keys() & CASES.keys()
    assert len(left_out) + len(CASES) == len(FAULTS) * len(ARCHITECTURES)
    assert all(left_out.values())


def test_the_split_is_the_one_that_was_written_down() -> None:
    assert half("raw-pixels@mlp") == ("report" if hashlib.sha256(b"raw-pixels@mlp").digest()[0] % 2 else "development")
    shares = Counter(case.half for case in CASES.values())
    assert 0.4 < shares["report"] / len(CASES) < 0.6
    assert [half(f"torchvision:{name}") for name in ("resnet18", "resnet50")] == ["development", "report"]


@pytest.mark.parametrize("name", ["mlp", "resnet"])  # harm.py trains them all, and takes its time
def test_a_twin_learns(name: str) -> None:
    setting = healthy(name)
    losses = []
    for _ in range(12):
        setting.optimizer.zero_grad()
        loss = setting.loss(setting.model(setting.images), setting.labels)
        loss.backward()
        setting.optimizer.step()
        losses.append(float(loss.detach()))
    assert min(losses[-3:]) < losses[0] - 0.02
    assert all(p.grad is not None for p in setting.model.parameters())


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_changes_its_setting_at_the_places_that_it_names(fault: str) -> None:
    case = next(case for case in CASES.values() if case.fault.name == fault)
    twin, (faulty, places) = case.twin(), case.faulty()
    modules = {name for name, _ in faulty.model.named_modules()}
    assert places
    assert set(places) <= modules | {"input", "labels", "loss", "optimizer"}
    assert fingerprint(twin) != fingerprint(faulty)


def fingerprint(setting: object) -> tuple[object, ...]:
    """All that a fault may change, comparable between two settings."""
    parameters = dict(setting.model.named_parameters())
    names = {id(parameter): name for name, parameter in parameters.items()}
    groups = [
        ([names.get(id(p)) for p in group["params"]], {k: v for k, v in group.items() if k != "params"})
        for group in setting.optimizer.param_groups
    ]
    return (
        repr(setting.model),
        [(n, p.requires_grad, hashlib.sha256(p.detach().numpy().tobytes()).hexdigest()) for n, p in parameters.items()],
        (setting.images.dtype, hashlib.sha256(setting.images.numpy().tobytes()).hexdigest()),
        (setting.labels.dtype, setting.labels.tolist()),
        (repr(setting.loss), getattr(setting.loss, "reduction", "")),
        repr(groups),
    )


def test_the_same_seed_makes_the_same_setting() -> None:
    assert fingerprint(healthy("mobilenet")) == fingerprint(healthy("mobilenet"))
    assert fingerprint(healthy("mobilenet")) != fingerprint(healthy("mobilenet", seed=1))


def test_permanent_twins_stay_equal_and_their_gradients_too() -> None:
    setting, places = CASES["twin-units@mlp"].faulty()
    for _ in range(3):
        setting.optimizer.zero_grad()
        setting.loss(setting.model(setting.images), setting.labels).backward()
        setting.optimizer.step()
    weight = setting.get(places[0]).weight
    torch.testing.assert_close(weight[: len(weight) // 2], weight[len(weight) // 2 :], rtol=1e-4, atol=1e-6)


def test_a_place_holds_what_is_inside_it_and_nothing_beside_it() -> None:
    assert at("late.1", ("late.1",))
    assert at("late.1.layer", ("late.1",))
    assert not at("late.10", ("late.1",))
    assert not at("late", ("late.1",))


def test_only_an_alarm_with_a_right_code_at_a_right_place_counts() -> None:
    case = CASES["raw-pixels@mlp"]

    def judged(*said: Alarm) -> Row:
        return Row.judged(case, ("input",), "tool", said, 0.0)

    right, elsewhere = Alarm("FL101", "input"), Alarm("FL101", "head")
    assert judged(right).place
    assert judged(right).first
    assert not judged(elsewhere).place
    assert judged(elsewhere).code
    assert not judged(Alarm("FL101", "input", "note")).code
    assert not judged(Alarm("FL999", "input"), right).first
    assert judged(Alarm("FL301/FL101", "input")).code


def test_a_peers_alarm_is_news_where_the_twin_is_silent_or_half_as_loud() -> None:
    run = load_run()
    thrice = [Alarm("FL301", f"early.{k}", title="vanishing") for k in range(3)]
    assert run.news(thrice, []) == thrice
    assert run.news(thrice, thrice[:1]) == thrice
    assert run.news(thrice, thrice[:2]) == []
    assert run.news([*thrice, Alarm("FL304", "early", title="dead")], thrice) == [Alarm("FL304", "early", title="dead")]


def test_a_run_is_made_once_and_found_again_in_its_file(tmp_path: Path) -> None:
    run = load_run()
    row = Row.of("healthy@mlp", "tool", [Alarm("FL304", "early", title="dead")], 0.5)
    assert run.Log(tmp_path / "rows.jsonl").run("healthy@mlp", "tool", lambda: row) == row
    assert run.Log(tmp_path / "rows.jsonl").run("healthy@mlp", "tool", lambda: pytest.fail("made again")) == row


def load_run() -> ModuleType:
    """The program beside the package."""
    path = Path(__file__).resolve().parents[2] / "benchmarks" / "faults" / "run.py"
    spec = importlib.util.spec_from_file_location("faults_run", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("peer", ["SageMaker Debugger", "TheDeepChecker", "UMLAUT", "DeepDiagnosis", "AUTOTRAINER"])
def test_a_peer_sees_what_its_rules_are_made_for(peer: str) -> None:
    seen = {
        "SageMaker Debugger": ("negative-biases@mlp", "DeadRelu"),
        "TheDeepChecker": ("constant-everywhere@mlp", "unbreaking symmetry"),
        "UMLAUT": ("softmax-before-cross-entropy@mlp", "activation on the last layer"),
        "DeepDiagnosis": ("nan-pixel@mlp", "numerical error"),
        "AUTOTRAINER": ("zero-everywhere@mlp", "dying ReLU"),
    }
    case, title = seen[peer]
    assert title in {alarm.title for alarm in PEERS[peer](CASES[case].faulty()[0])}
    assert title not in {alarm.title for alarm in PEERS[peer](CASES[case].twin())}
