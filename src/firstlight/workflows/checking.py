"""A network, a batch and a loss → three steps on a copy → what is wrong, why, and what mends it."""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from firstlight import __version__
from firstlight._files import to_json, write_atomically
from firstlight.diagnosis import Case, Diagnosis, Finding, Severity, all_rules, diagnose
from firstlight.errors import FirstlightError
from firstlight.probe import Measurements, Run, run_steps
from firstlight.recipe.export.common import standardization
from firstlight.report import check_document, to_html, to_notebook
from firstlight.report.exchange import check_dict, junit, sarif
from firstlight.theory import Prediction
from firstlight.workflows.check_views import check_views
from firstlight.workflows.predicting import predict
from firstlight.workflows.repairing import Setting, Trial, applied, remade, verdict

if TYPE_CHECKING:
    from firstlight.recipe import Recipe
    from firstlight.report import Document
    from firstlight.statistics import Statistics

_FORMS = (".html", ".json", ".xml", ".sarif")
_LABELS = ("labels", "label", "targets", "target")


@dataclass(frozen=True)
class Check:
    """What a check found.

    Attributes:
        diagnosis: findings, clean rules, and what was not checked.
        case: everything the rules looked at.
        subject: name of the network, for people.
        trials: the fixes that were tried, see `repaired`.
    """

    diagnosis: Diagnosis
    case: Case
    subject: str
    trials: tuple[Trial, ...] = ()
    _again: Callable[[Setting], "Check"] | None = field(default=None, repr=False, compare=False)
    _setting: Setting | None = field(default=None, repr=False, compare=False)

    @property
    def findings(self) -> tuple[Finding, ...]:
        """Culprits, the worst first; what follows from one is in its `victims`."""
        return self.diagnosis.findings

    @property
    def not_checked(self) -> tuple[tuple[str, str], ...]:
        """(code, reason) of rules that could not be applied."""
        return self.diagnosis.not_checked

    @property
    def clean(self) -> tuple[str, ...]:
        """Codes of rules that looked and found nothing."""
        return self.diagnosis.clean

    @property
    def ok(self) -> bool:
        """Whether nothing was found that will keep the network from training as meant."""
        return not self.at_least("fail")

    def at_least(self, severity: Severity) -> tuple[Finding, ...]:
        """The findings of this severity or a worse one."""
        worse = {"fail": ("fail",), "warn": ("fail", "warn"), "note": ("fail", "warn", "note")}[severity]
        return tuple(finding for finding in self.findings if finding.severity in worse)

    @property
    def run(self) -> Run | None:
        """The three steps; None when the model did not run."""
        return self.case.measured

    @property
    def measurements(self) -> Measurements | None:
        """Every operation before the first step; None when the model did not run."""
        return None if self.case.measured is None else self.case.measured.first

    @property
    def prediction(self) -> Prediction | None:
        """What the theory expected; None when it could not be made."""
        return self.case.prediction

    def repaired(self) -> "Check":
        """Try each finding's fix on a copy, one at a time, and check again; the network itself stays as it is.

        Returns:
            The same check with `trials`: what was done, and what the second check said.
        """
        if self._again is None or self._setting is None:
            return self
        trials = []
        for finding in self.findings:
            if finding.repair is None:
                continue
            try:
                setting, done = applied(self._setting, finding.repair, self.case)
                after, mended = verdict(finding, self.findings, self._again(setting).findings)
            except FirstlightError as error:
                done, after, mended = finding.repair.kind, f"could not be tried: {error.cause}", False
            trials.append(Trial(finding.code, finding.where, done, finding.title, after, mended))
        return replace(self, trials=tuple(trials))

    @cached_property
    def document(self) -> "Document":
        """The report as plain values."""
        return check_document(
            self.subject,
            self.diagnosis,
            self.case,
            check_views(self.case),
            repaired=[(f"{t.code} {t.where}", t.done, t.before, t.after) for t in self.trials],
            footer=self._provenance,
        )

    @property
    def _provenance(self) -> tuple[str, ...]:
        how = () if self.run is None else (f"The graph was {self.run.graph.how}",)
        notes = () if self.run is None else self.run.notes
        missing = tuple(f"{what}: {why}" for what, why in self.case.reasons.items())
        return f"firstlight {__version__}, PyTorch {torch.__version__}", *how, *notes, *missing

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON, ``firstlight.check/1``."""
        trials = [asdict(trial) for trial in self.trials]
        return check_dict(self.subject, self.diagnosis, self.case) | {"trials": trials}

    def save(self, path: str | os.PathLike[str], *, fail_on: Severity = "fail") -> None:
        """Write the report; the end of the name chooses the form.

        Args:
            path: ``.html`` (a self-contained page), ``.json``, ``.xml`` (JUnit, one test case for each rule) or
                ``.sarif`` (SARIF 2.1.0).
            fail_on: from which severity on a JUnit test case fails.

        Raises:
            FirstlightError: slug ``unknown-report-form``, for any other ending.
        """
        writers: dict[str, Callable[[], str]] = {
            ".html": lambda: to_html(self.document),
            ".json": lambda: to_json(self.to_dict()),
            ".xml": lambda: junit(self.subject, self.diagnosis, fail_on),
            ".sarif": lambda: sarif(self.diagnosis),
        }
        write_atomically(path, writers[form_of(path)]().encode("utf-8"))

    def __str__(self) -> str:
        lines = [self.document.verdict]
        lines += [f"{f.severity:4s} {f.code} {f.where}: {f.title}" for f in self.findings]
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        return to_notebook(self.document)


def form_of(path: str | os.PathLike[str]) -> str:
    """The form of report that the end of a name asks for.

    Raises:
        FirstlightError: slug ``unknown-report-form``.
    """
    form = Path(path).suffix.lower()
    if form not in _FORMS:
        raise FirstlightError(
            f"{Path(path).name!r} does not say which form of report is wanted",
            f"end the name with {', '.join(_FORMS)}",
            slug="unknown-report-form",
            call="check(...).save",
        )
    return form


def check(
    model: nn.Module,
    batch: Any,
    loss: Callable[..., Tensor] | None = None,
    *,
    labels: Tensor | None = None,
    optimizer: Any = None,
    statistics: "Statistics | None" = None,
    recipe: "Recipe | None" = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    classes: int | None = None,
    class_counts: Sequence[int] | None = None,
    autocast: torch.dtype | None = None,
    steps: int = 3,
    histograms: bool = True,
) -> Check:
    """Run a network as it will be trained, for three steps on a copy, and say whether the signal flows.

    The model, the optimizer and every random generator are left exactly as they were, errors included.

    Args:
        model: any module, on the device of the batch.
        batch: what the data loader yields: ``(inputs, labels)``, a mapping with the labels among its entries, or the
            inputs alone. Images are ``[N, C, H, W]``, or a list of images of their own sizes. Targets that are no
            tensor (a detector's list of boxes) go into the model with the inputs.
        loss: callable of the output and the labels that returns one number; without it, the loss that the model
            itself returns, or cross-entropy where the labels are classes; see `firstlight.probe.probe`.
        labels: of the batch, when `batch` is the inputs alone.
        optimizer: the one that will train; a twin of it makes the steps. Without it Adam does, and what concerns the
            optimizer is not checked.
        statistics: of the training images before preprocessing, for the input's constants and order of channels.
        recipe: the preprocessing that was meant.
        mean, std: the constants the images were normalized with, in units of full scale.
        classes: number of classes; the width of the output without it.
        class_counts: images per class in the training set, for the loss at the start and the bias of the head.
        autocast: run under autocast with this type.
        steps: how many optimizer steps; three tell a branch that starts at zero from one that is dead.
        histograms: measure distributions too, for the page.

    Returns:
        Findings, what was measured, and what was not checked.

    Raises:
        FirstlightError: slugs ``model-does-not-run`` and ``loss-does-not-fit``, when no rule about the input can say
            why; ``example-not-understood``.
    """
    inputs, labels = _split(batch, labels, keep=loss is None)
    run, error = _run(model, inputs, labels, loss, optimizer, steps, histograms, autocast)
    reasons = {} if error is None else {"run": f"the network did not run: {error.cause}"}
    prediction = None
    if run is not None:
        prediction, reason = _prediction(model, inputs, run)
        reasons |= {"prediction": reason} if reason else {}
    if recipe is not None and mean is None and std is None:
        mean, std = _constants(recipe)
    case = Case(
        model=model,
        batch=inputs,
        labels=labels,
        loss=loss,
        measured=run,
        prediction=prediction,
        classes=classes or _classes(run),
        class_counts=None if class_counts is None else tuple(int(count) for count in class_counts),
        statistics=statistics,
        recipe=recipe,
        mean=None if mean is None else tuple(float(value) for value in mean),
        std=None if std is None else tuple(float(value) for value in std),
        reasons=reasons,
    )
    diagnosis = diagnose(case, all_rules())
    if error is not None and not any(finding.severity == "fail" for finding in diagnosis.findings):
        raise error

    def again(setting: Setting) -> Check:
        return check(
            setting.model, setting.batch, setting.loss, labels=setting.labels, optimizer=setting.optimizer,
            statistics=statistics, recipe=recipe, mean=mean, std=std, classes=classes, class_counts=class_counts,
            autocast=autocast, steps=steps, histograms=histograms,
        )  # fmt: skip

    setting = Setting(model, inputs, labels, loss, None if optimizer is None else remade(optimizer, model))
    return Check(diagnosis, case, type(model).__name__, (), again, setting)


def _split(batch: Any, labels: Tensor | None, *, keep: bool) -> tuple[Any, Tensor | None]:
    """Inputs and labels of what a loader yields; labels stay in a mapping when the model itself makes the loss."""
    if isinstance(batch, Mapping):
        key = next((key for key in _LABELS if key in batch), None)
        if key is None or labels is not None:
            return batch, labels
        return (batch if keep else {k: v for k, v in batch.items() if k != key}), batch[key]
    if _is_images(batch):
        return (batch,), labels
    if isinstance(batch, list | tuple) and labels is None and len(batch) == 2:
        if isinstance(batch[1], list | tuple | Mapping):
            return tuple(batch), None
        batch, labels = batch
    elif isinstance(batch, list | tuple) and len(batch) == 1:
        batch = batch[0]
    return ((batch,) if _is_images(batch) else batch), labels


def _is_images(batch: Any) -> bool:
    """Whether this is one argument, a list of images of their own sizes, as detectors take them."""
    return isinstance(batch, list) and bool(batch) and all(isinstance(x, Tensor) and x.dim() == 3 for x in batch)


def _run(
    model: nn.Module, inputs: Any, labels: Any, loss: Any, optimizer: Any, steps: int, histograms: bool, autocast: Any
) -> tuple[Run | None, FirstlightError | None]:
    try:
        return run_steps(
            model, inputs, labels, loss, optimizer=optimizer, steps=steps, histograms=histograms, autocast=autocast
        ), None
    except FirstlightError as error:
        if error.slug not in ("model-does-not-run", "loss-does-not-fit"):
            raise
        return None, error


def _prediction(model: nn.Module, inputs: Any, run: Run) -> tuple[Prediction | None, str]:
    """What the theory expects for this very input, or why it says nothing."""
    leaves = [leaf for leaf in tree_leaves(inputs) if isinstance(leaf, Tensor)]
    images = next((leaf for leaf in leaves if leaf.is_floating_point() and leaf.dim() > 1), None)
    if images is None:
        return None, "no input is a floating-point tensor"
    if not bool(torch.isfinite(images).all()):
        return None, "the input is not finite"
    try:
        return predict(model, inputs, images=images, graph=run.graph), ""
    except Exception as error:  # the rules can do without it, and say so
        return None, getattr(error, "cause", f"the theory failed: {type(error).__name__}: {error}")


def _classes(run: Run | None) -> int | None:
    """Width of the scores that go into a loss over classes."""
    if run is None:
        return None
    scores = [call.input for call in run.losses if call.function in ("cross_entropy", "nll_loss")]
    if not scores and isinstance(run.output, Tensor) and run.output.dim() == 2:
        scores = [run.output]
    return scores[0].shape[1] if scores and scores[0].dim() >= 2 else None


def _constants(recipe: "Recipe") -> tuple[Sequence[float] | None, Sequence[float] | None]:
    """Mean and std per channel of a recipe; neither where it is not that simple."""
    try:
        said = standardization(recipe, "check")
    except FirstlightError:
        return None, None
    return said.mean.tolist(), said.std.tolist()
