"""The lecture: one file per chapter with its settings, its run, its figures, its claims and their verdicts."""

from firstlight.experiments.reproduce import CHAPTERS, Lecture, lecture

__all__ = ["CHAPTERS", "Lecture", "lecture"]
