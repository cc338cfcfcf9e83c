"""The public API of the attention laboratory: capture, run and findings."""

from cuecard.attention.measure import Measure
from cuecard.attention.results import Findings, findings
from cuecard.attention.run import Asked, Settings, borrowed, capture, decode, in_process, own, run
from cuecard.attention.store import Folder
from cuecard.models.local.inputs import Span, Spans

__all__ = [
    "Asked",
    "Findings",
    "Folder",
    "Measure",
    "Settings",
    "Span",
    "Spans",
    "borrowed",
    "capture",
    "decode",
    "findings",
    "in_process",
    "own",
    "run",
]
