"""What the models of the embedded pair are trained on: their phases, and what each phase holds.

Phases of the small model: *vision* alone (which digit, colour and cell each visual token shows), *look-up* (name the
cells of a board in the words of the reasoning), *drill* (single steps of a reasoning), *both* (short answers,
reasoning, and reading cards), *recall* and *practice* (the same, with what comes slowest), *present* (whether what is
asked for is there), *polish* and *tally* (practice again, the last one with more sums and counts). Vision is kept as
it is from the first phase on. The large model begins as the saved small one, deeper by layers that are silent at
first (*hops*, in which those layers are shown how to jump, *drill* in the words of its own, *both*, *glance*, for what
needs no reasoning, *polish* and *tally*).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from cuecard.demo import boards

# What is asked for an answer at once. What cannot be answered yet is only noise to what can be learned, so first come
# questions without jumps, then few jumps; the small model is spared most of them for good.
GLANCE = {"look-up": 10, "compare": 4, "count": 3, "sum": 3, "jump-1": 1, "jump-2": 1}
HOPS = {"look-up": 2, "jump-1": 5, "jump-2": 2}
DEEPER = {
    "look-up": 4,
    "compare": 3,
    "count": 4,
    "sum": 4,
    "jump-1": 8,
    "jump-2": 4,
    "jump-4": 1,
    "jump-8": 1,
}
NEARER = {"look-up": 3, "compare": 3, "count": 2, "sum": 2, "jump-1": 6, "jump-2": 3, "jump-4": 1, "jump-8": 1}
REASONED = {
    "look-up": 4,
    "compare": 4,
    "count": 4,
    "sum": 4,
    "jump-1": 2,
    "jump-2": 4,
    "jump-3": 4,
    "jump-4": 4,
    "jump-5": 5,
} | dict.fromkeys(boards.LONG_TASKS, 1)
LONGER = REASONED | dict.fromkeys(boards.LONG_TASKS, 3)
TALLIED = LONGER | {"count": 12, "sum": 12}
ENDINGS = LONGER | {"look-up": 12, "jump-1": 6, "count": 6, "sum": 8}
DRILLS = ("sum", "count", "choose", "compare", "judge", "present")
"""Sorts of steps; whether two words are the same comes slowest, and in the large model what a reached cell shows."""


@dataclass(frozen=True)
class Phase:
    """Steps of one sort, and how many rows of each kind a step holds."""

    name: str
    steps: int
    look_up_rows: int = 0
    chains: int = 0
    """Rows of six questions answered at once, drawn from `short_mix`."""
    short_mix: Mapping[str, int] = field(default_factory=dict)
    reason_rows: int = 0
    reason_mix: Mapping[str, int] = field(default_factory=lambda: REASONED)
    read_rows: int = 0
    drill_rows: int = 0
    """Rows of one sort of step, again and again, drawn from `drills`."""
    drills: tuple[str, ...] = DRILLS
    photos: float = 0.12
    """Share of the rows about an image of easy-VQA."""
    as_asked: float = 0.0
    """Share of easy-VQA's yes/no questions that are as the data set has them: four in five ask for what is missing."""
    peak: float = 1.0
    """Share of the model's learning rates that the phase begins with."""


@dataclass(frozen=True)
class Recipe:
    """The phases of one model, and how often the cards it reads have a slip."""

    phases: tuple[Phase, ...]
    slips: float  # teaches to check a card against the image
    stations: tuple[int, ...]
    """Layers after which, where an answer at once begins, the cell reached after 0, 1, … jumps is to be known, and from
    the second on what the cell before it shows."""
    looks: tuple[int, ...] = ()
    """Layers in which, there, the first attention head is to look at the cell reached after 0, 1, … jumps."""
    adam_rate: float = 2e-3
    muon_rate: float = 0.02
    grown_from: str | None = None
    """The model whose weights it begins with, with new layers in the middle that are silent at first."""


PRACTICE = Phase(
    "practice",
    1200,
    drill_rows=4,
    drills=(*DRILLS, "present", "present", "recall"),
    chains=3,
    short_mix=GLANCE,
    reason_rows=14,
    reason_mix=LONGER,
    read_rows=3,
    photos=0.35,
    as_asked=0.5,
    peak=0.8,
)
"""What comes slowest: many jumps, and whether what is asked for is there."""

RECIPES = {
    "demo-small": Recipe(
        (
            Phase("vision", 1800),
            Phase("look-up", 300, look_up_rows=40),
            Phase("drill", 550, drill_rows=14, drills=(*DRILLS, "choose", "judge")),
            Phase(
                "both",
                1600,
                drill_rows=3,
                drills=(*DRILLS, "choose", "judge"),
                chains=4,
                short_mix=GLANCE,
                reason_rows=14,
                read_rows=3,
                photos=0.2,
            ),
            Phase(
                "recall",
                500,
                drill_rows=5,
                drills=("recall", "recall", *DRILLS),
                chains=4,
                short_mix=GLANCE,
                reason_rows=12,
                read_rows=3,
                photos=0.3,
            ),
            PRACTICE,
            Phase(
                "present",
                450,
                drill_rows=11,
                drills=("found", "found", "found", "present", "judge"),
                chains=2,
                short_mix=GLANCE,
                reason_rows=6,
                photos=0.5,
                as_asked=0.5,
                peak=0.8,
            ),
            replace(PRACTICE, name="polish", steps=500, drill_rows=3, drills=(*DRILLS, "found", "present"), peak=0.5),
            replace(
                PRACTICE,
                name="tally",
                steps=350,
                drills=("sum", "count", "count", "compare", "found"),
                reason_mix=TALLIED,
                read_rows=2,
                photos=0.2,
                peak=0.5,
            ),
        ),
        slips=0.1,
        stations=(1, 2),
    ),
    "demo-large": Recipe(
        (
            Phase("hops", 500, chains=8, short_mix=HOPS, reason_rows=2),
            Phase(
                "drill",
                200,
                look_up_rows=2,
                drill_rows=8,
                drills=(*DRILLS, "choose far", "count", "count", "found", "jump", "jump"),
                chains=3,
                short_mix=HOPS,
                photos=0.2,
            ),
            Phase(
                "both",
                750,
                drill_rows=4,
                drills=(*DRILLS, "choose far", "count", "recall", "recall", "found", "jump", "jump"),
                chains=5,
                short_mix=DEEPER,
                reason_rows=10,
                read_rows=4,
                photos=0.35,
                as_asked=0.5,
            ),
            Phase(
                "glance",
                500,
                drill_rows=3,
                drills=(*DRILLS, "choose far", "count", "recall", "found", "jump", "jump"),
                chains=6,
                short_mix=NEARER,
                reason_rows=10,
                reason_mix=LONGER,
                read_rows=4,
                photos=0.4,
                as_asked=0.5,
                peak=0.5,
            ),
            Phase(
                "polish",
                300,
                drill_rows=5,
                drills=("choose far", "count", "sum", "recall", "found", "jump", "jump", "jump"),
                chains=5,
                short_mix=NEARER,
                reason_rows=10,
                reason_mix=ENDINGS,
                read_rows=3,
                photos=0.3,
                as_asked=0.5,
                peak=0.4,
            ),
            Phase(
                "tally",
                350,
                drill_rows=4,
                drills=("sum", "sum", "count", "recall", "jump", "found"),
                chains=4,
                short_mix=NEARER,
                reason_rows=13,
                reason_mix=TALLIED,
                read_rows=3,
                photos=0.2,
                as_asked=0.5,
                peak=0.4,
            ),
        ),
        slips=0.35,
        stations=(1, 4, 7, 10),
        looks=(2, 5, 8),
        adam_rate=1e-3,
        muon_rate=0.012,
        grown_from="demo-small",
    ),
}
