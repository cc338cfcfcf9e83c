"""The laboratory as one import: capture and run, then findings."""

from cuecard.attention.capture import borrowed, capture, in_process, own, said
from cuecard.attention.measure import Measure
from cuecard.attention.results import Findings, findings
from cuecard.attention.run import Asked, Settings, run
from cuecard.attention.store import Folder
from cuecard.models.local.token_spans import Span, Spans

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
    "findings",
    "in_process",
    "own",
    "run",
    "said",
]
