"""Presets: benchmarks as their data sets on the Hugging Face hub hold them, with their authors' questions and scores.

Each says which data set, which columns and how a row is asked.
"""

from cuecard.evals.tasks.presets import documents, knowledge, pictures
from cuecard.evals.tasks.presets.preset import Preset, Row

PRESETS: dict[str, Preset] = {**pictures.PRESETS, **documents.PRESETS, **knowledge.PRESETS}

__all__ = ["PRESETS", "Preset", "Row"]
