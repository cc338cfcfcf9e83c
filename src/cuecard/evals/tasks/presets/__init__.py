"""Presets: benchmarks from their data sets on the Hugging Face hub, with their authors' questions and scores.

Each preset names the data set and its columns, and converts rows into questions.
"""

from cuecard.evals.tasks.presets import documents, knowledge, pictures
from cuecard.evals.tasks.presets.preset import Preset, Row

PRESETS: dict[str, Preset] = {**pictures.PRESETS, **documents.PRESETS, **knowledge.PRESETS}

__all__ = ["PRESETS", "Preset", "Row"]
