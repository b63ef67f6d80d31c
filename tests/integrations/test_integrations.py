"""The plugin, the callbacks and the plain loop, each with the real library."""

import sys
import warnings

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

import firstlight as fl
from firstlight.errors import FirstlightError
from firstlight.models import small_cnn

pytest_plugins = ("pytester",)


def healthy() -> nn.Module:
    network = small_cnn()
    fl.initialize(network, torch.zeros(2, 3, 32, 32), scheme="kaiming", seed=0)
    return network


def dead() -> nn.Module:
    """Every weight is the same number: units that are equal stay equal."""
    network = small_cnn()
    for name, parameter in network.named_parameters():
        nn.init.constant_(parameter, 0.01 if name.endswith("weight") else 0.0)
    return network


def data(count: int = 16) -> TensorDataset:
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(count, 3, 32, 32, generator=generator)
    return TensorDataset(images, torch.randint(10, (count,), generator=generator))


def state(network: nn.Module) -> list[torch.Tensor]:
    return [value.clone() for value in network.state_dict().values()]


def same(before: list[torch.Tensor], network: nn.Module) -> bool:
    return all(torch.equal(a, b) for a, b in zip(before, network.state_dict().values(), strict=True))


# ---- plain loop -----------------------------------------------------------------------------------------


def test_two_lines_in_a_plain_loop():
    network, loader = healthy(), DataLoader(data(), 8)
    check = fl.check(network, next(iter(loader)), functional.cross_entropy)
    assert check.ok, check


# ---- pytest ---------------------------------------------------------------------------------------------


def test_fixture_passes_and_fails(pytester):
    pytester.makepyfile(
        net="""
        import torch
        from torch import nn

        def build(constant):
            torch.manual_seed(0)
            network = nn.Sequential(nn.Flatten(), nn.Linear(192, 64), nn.ReLU(), nn.Linear(64, 4))
            if constant:
                for parameter in network.parameters():
                    nn.init.constant_(parameter, 0.01)
            return network

        def batch():
            g = torch.Generator().manual_seed(0)
            return torch.randn(16, 3, 8, 8, generator=g), torch.randint(4, (16,), generator=g)
        """
    )
    pytester.makepyfile(
        """
        from net import batch, build
        from torch.nn import functional

        def test_healthy(assert_trains):
            assert assert_trains(build(False), batch(), functional.cross_entropy).ok

        def test_constant(assert_trains):
            assert_trains(build(True), batch(), functional.cross_entropy)
        """
    )
    result = pytester.runpytest("-p", "no:cacheprovider")
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(["*FL203*", "*evidence:*", "*fix:*"])


# ---- Lightning ------------------------------------------------------------------------------------------


def trained_by_lightning(network: nn.Module, *callbacks):
    pl = pytest.importorskip("lightning.pytorch")

    class Module(pl.LightningModule):
        def __init__(self):
            super().__init__()
            self.network = network

        def forward(self, images):
            return self.network(images)

        def training_step(self, batch, index):
            images, labels = batch
            loss = functional.cross_entropy(self(images), labels)
            self.log("loss", loss)
            return loss

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.01)

    pl.seed_everything(0, verbose=False)
    loader = DataLoader(data(), 8, shuffle=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Lightning's advice about workers and loggers
        trainer = pl.Trainer(
            max_steps=2, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
            enable_model_summary=False, callbacks=list(callbacks),
        )  # fmt: skip
        trainer.fit(Module(), loader)


def test_lightning_training_is_the_same_with_and_without(tmp_path):
    pytest.importorskip("lightning.pytorch")
    from firstlight.integrations.lightning import FirstlightCheck

    plain, checked = healthy(), healthy()
    trained_by_lightning(plain)
    callback = FirstlightCheck(output=tmp_path / "check.html")
    trained_by_lightning(checked, callback)
    assert same(state(plain), checked)
    assert callback.found is not None
    assert callback.found.ok
    assert callback.found.run.optimizer.name == "SGD"
    assert (tmp_path / "check.html").stat().st_size > 10_000


def test_lightning_stops_what_will_not_train():
    pytest.importorskip("lightning.pytorch")
    from firstlight.integrations.lightning import FirstlightCheck

    network = dead()
    before = state(network)
    with pytest.raises(FirstlightError) as error:
        trained_by_lightning(network, FirstlightCheck())
    assert error.value.slug == "check-failed"
    assert "FL203" in str(error.value)
    assert same(before, network)
    seen = []
    trained_by_lightning(dead(), FirstlightCheck(on_finding=seen.append))
    assert len(seen) == 1


# ---- Hugging Face ---------------------------------------------------------------------------------------


class Classifier(nn.Module):
    """As models of transformers are: keyword arguments in, a mapping with the loss out."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def forward(self, pixel_values, labels):
        logits = self.network(pixel_values)
        return {"loss": functional.cross_entropy(logits, labels), "logits": logits}


def trained_by_transformers(network: nn.Module, folder, *callbacks):
    # With marimo loaded (by a test of the lab in the same process) the library takes itself to be in a notebook.
    with pytest.MonkeyPatch.context() as patch:
        patch.delitem(sys.modules, "marimo", raising=False)
        transformers = pytest.importorskip("transformers")
        pytest.importorskip("transformers.trainer")
    pytest.importorskip("accelerate")
    rows = [{"pixel_values": images, "labels": label} for images, label in data()]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        arguments = transformers.TrainingArguments(
            str(folder), max_steps=2, per_device_train_batch_size=8, report_to=[], save_strategy="no",
            disable_tqdm=True, use_cpu=True, seed=0, dataloader_pin_memory=False,
        )  # fmt: skip
        trainer = transformers.Trainer(Classifier(network), arguments, train_dataset=rows, callbacks=list(callbacks))
        trainer.train()


def test_transformers_training_is_the_same_with_and_without(tmp_path):
    from firstlight.integrations.transformers import FirstlightCheck

    plain, checked = healthy(), healthy()
    trained_by_transformers(plain, tmp_path)
    callback = FirstlightCheck()
    trained_by_transformers(checked, tmp_path, callback)
    assert same(state(plain), checked)
    assert callback.found is not None
    assert callback.found.ok
    assert callback.found.run.optimizer.name == "AdamW"


def test_transformers_stops_what_will_not_train(tmp_path):
    from firstlight.integrations.transformers import FirstlightCheck

    with pytest.raises(FirstlightError, match="FL203"):
        trained_by_transformers(dead(), tmp_path, FirstlightCheck())
