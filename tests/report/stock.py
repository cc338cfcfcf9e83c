"""Records to draw: one transferred request with every kind of mark, and a showcase around it."""

from __future__ import annotations

import io
from dataclasses import replace

from PIL import Image as Pictures

from cuecard.domain.call import Call, FinishReason, Mode, Usage
from cuecard.domain.outcome import LatencyKind, Outcome, Route
from cuecard.domain.question import AnswerKind, Image, Question
from cuecard.report.showcase.records import Exhibit, Sample, Showcase, StrategyAnswer, StrategyRow


def _picture() -> bytes:
    buffer = io.BytesIO()
    Pictures.new("RGB", (8, 8)).save(buffer, "PNG")
    return buffer.getvalue()


REASONING = "Let us start at cell 4. Now cell 7 shows a red 3."


def call(role: str, mode: Mode, start_s: float, end_s: float, tokens: int = 1, **changed: object) -> Call:
    first = None if mode is Mode.WARM else start_s + (end_s - start_s) / 4
    reasoning = REASONING if mode is Mode.REASON else None
    made = Call(
        role, f"demo-{role}", mode, start_s, first, end_s, Usage(60, 0, tokens, 0), FinishReason.STOP, reasoning, "3"
    )
    return replace(made, **{"reasoning_end_s": end_s if reasoning else None} | changed)


CALLS = (
    call("small", Mode.REASON, 0.0, 0.2, 58),
    call("small", Mode.SHORT, 0.0, 0.03),
    call("large", Mode.SHORT, 0.0, 0.05),
    call("large", Mode.WARM, 0.1, 0.11, 0),
    call("large", Mode.READ, 0.2, 0.22),
)
OUTCOME = Outcome("3", Route.TRANSFERRED, "mutual", CALLS, 0.221, "the large model read", "eager")
QUESTION = Question("Which digit do you reach?", (Image(_picture()),), kind=AnswerKind.NUMBER)


def row(strategy: str, schedule: str | None = None, **changed: object) -> StrategyRow:
    made = StrategyRow(
        strategy=strategy,
        schedule=schedule,
        questions=10,
        right=9,
        low=0.6,
        high=0.98,
        tokens={"small": 40.0, "large": 1.5},
        mean_s=0.2,
        parts_s={"small": 0.15, "large": 0.04, "neither": 0.01},
        speed_up=1.8,
        routes={Route.AGREED: 4, Route.CONFIRMED: 3, Route.TRANSFERRED: 3},
        latency=LatencyKind.MEASURED,
    )
    return replace(made, **changed)


ALONE = row("reason:large", speed_up=1.0, mean_s=0.36, routes={Route.DIRECT: 10}, tokens={"large": 70.0})
ROWS = (
    row("short:large", tokens={"large": 1.0}, right=6, mean_s=0.02, parts_s={"large": 0.02}, routes={Route.DIRECT: 10}),
    ALONE,
    row("mutual", "overlap"),
    row("mutual", "eager", tokens={"small": 48.0, "large": 1.5}, parts_s={"small + large": 0.2}),
)


def showcase(outcome: Outcome = OUTCOME, question: Question = QUESTION, truth: str = "3") -> Showcase:
    return Showcase(
        questions=10,
        rows=ROWS,
        headline="mutual, overlap",
        sample=Sample(question, truth, {"mutual, overlap": outcome}),
        gallery=(Exhibit(question, "board, jump-3", truth, True, outcome, 0.36),),
        answers=(
            StrategyAnswer(
                0, "board", "mutual, overlap", outcome.answer, truth, True, outcome.route, 0.2, {"small": 58}
            ),
        ),
        about=(("pair", "demo-small and demo-large"),),
    )
