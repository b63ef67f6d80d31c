"""Published rules, written anew from their published thresholds, and TorchLens itself where it is installed.

A rule's alarm is translated into every code of ours that it may mean, which is generous.
"""

from collections.abc import Callable

from faults.peers.autotrainer import autotrainer
from faults.peers.deepchecker import deepchecker
from faults.peers.deepdiagnosis import deepdiagnosis
from faults.peers.sagemaker import sagemaker
from faults.peers.torchlens import Unavailable, torchlens
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

__all__ = ["PEERS", "Unavailable"]
