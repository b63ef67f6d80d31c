"""All faults on all architectures, and which half each belongs to."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from faults.architectures import ARCHITECTURES
from faults.kinds import gradient, images, labels, loss, signal, step, weights
from faults.setting import Fault, Places, Setting, healthy

Half = Literal["development", "report"]
FAULTS = {
    fault.name: fault for kind in (images, labels, weights, signal, gradient, loss, step) for fault in kind.FAULTS
}


def half(name: str) -> Half:
    """Which half a name belongs to, written down before anything was tuned: the parity of its SHA-256.

    Thresholds may be chosen on the development half; figures are reported on the other.
    """
    return "report" if hashlib.sha256(name.encode()).digest()[0] % 2 else "development"


@dataclass(frozen=True)
class Case:
    """One fault in one architecture."""

    fault: Fault
    architecture: str

    @property
    def name(self) -> str:
        """``fault@architecture``: what the split is made by."""
        return f"{self.fault.name}@{self.architecture}"

    @property
    def half(self) -> Half:
        """Which half it belongs to."""
        return half(self.name)

    def twin(self, seed: int = 0) -> Setting:
        """The same without the fault."""
        return healthy(self.architecture, tags=self.fault.tags, seed=seed)

    def faulty(self, seed: int = 0) -> tuple[Setting, Places]:
        """The setting with the fault in it, and the places that are its culprit."""
        setting = self.twin(seed)
        return setting, self.fault.apply(setting)


def cases(which: Half | None = None) -> Iterator[Case]:
    """Every combination that is a fault."""
    for fault in FAULTS.values():
        for name, architecture in ARCHITECTURES.items():
            case = Case(fault, name)
            if not fault.excluded(architecture) and which in (None, case.half):
                yield case


def excluded() -> Iterator[tuple[str, str]]:
    """Every combination that is none, with the reason."""
    for fault in FAULTS.values():
        for name, architecture in ARCHITECTURES.items():
            if why := fault.excluded(architecture):
                yield f"{fault.name}@{name}", why
