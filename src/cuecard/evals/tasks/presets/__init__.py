"""Presets: benchmarks from their data sets on the Hugging Face hub, with their authors' questions and scores.

Each preset names the data set and its columns, and converts rows into questions.
"""

from cuecard.evals.tasks.mapping import Preset, Row
from cuecard.evals.tasks.presets import knowledge, pictures

PRESETS: dict[str, Preset] = {**pictures.PRESETS, **knowledge.DOCUMENTS, **knowledge.PRESETS}

__all__ = ["PRESETS", "Preset", "Row"]
