"""Published rules, written anew from their published thresholds, and TorchLens itself where it is installed.

A rule's alarm is translated into every code of ours that it may mean, which is generous.
"""

import importlib.util
from collections.abc import Callable
from functools import cache

from faults.peers.autotrainer import autotrainer
from faults.peers.deepchecker import deepchecker
from faults.peers.deepdiagnosis import deepdiagnosis
from faults.peers.sagemaker import sagemaker
from faults.peers.torchlens import torchlens
from faults.peers.umlaut import umlaut
from faults.score import Alarm
from faults.setting import Setting

PEERS: dict[str, Callable[[Setting], list[Alarm]]] = {
    "SageMaker Debugger": sagemaker,
    "TheDeepChecker": deepchecker,
    "UMLAUT": umlaut,
    "DeepDiagnosis": deepdiagnosis,
    "AUTOTRAINER": autotrainer,
    "TorchLens": torchlens,
}


@cache
def available(tool: str) -> bool:
    """Whether a tool can run here; says so once where it cannot."""
    there = tool != "TorchLens" or importlib.util.find_spec("torchlens") is not None
    if not there:
        print("TorchLens: not installed")
    return there


__all__ = ["PEERS", "available"]
