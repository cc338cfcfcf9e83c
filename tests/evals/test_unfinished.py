"""An interrupted run reports how much of it is done; a complete run reports nothing."""

from __future__ import annotations

import asyncio
from contextlib import closing, suppress

from files import jsonl
from laboratory import Laboratory, MadeUp

from cuecard.evals.arm import parse_all
from cuecard.evals.run_folder import unfinished
from cuecard.evals.runner import Plan, run
from cuecard.evals.tasks.files import JsonlTask

ARMS = ("short:small", "short:large", "mutual")


def lacking(lab: Laboratory) -> str | None:
    with closing(lab.store()) as store:
        return unfinished(lab.config, store)


def interrupted(lab: Laboratory, after: int, limit: int | None = None) -> None:
    """Start a run, and end it with an error after this many answers."""

    def listen(progress, records):
        if progress.answered == after:
            raise KeyError("interrupted")

    plan = Plan([lab.task], parse_all(lab.arms, lab.policy), lab.seats, limit=limit)
    with closing(lab.store()) as store, suppress(KeyError):
        asyncio.run(run(plan, lab.models, store, listen))


def test_a_run_that_was_interrupted_says_how_many_questions_and_arms_are_there(tmp_path):
    lab = Laboratory(tmp_path, MadeUp(12), ARMS)
    interrupted(lab, 4)
    assert lacking(lab) == "Unfinished: on made-up 4 of 12 questions are answered by all 3 arms."
    lab.run()
    assert lacking(lab) is None


def test_arms_that_were_added_and_not_run_yet_are_named(tmp_path):
    Laboratory(tmp_path, MadeUp(6), ARMS).run()
    more = Laboratory(tmp_path, MadeUp(6), (*ARMS, "reason:large", "transfer"))
    assert lacking(more) == (
        "Unfinished: on made-up 0 of 6 questions are answered by all 5 arms;"
        " fewer than 6 by reason:large 0, transfer 0."
    )


def test_a_task_whose_length_is_not_known_is_unfinished_too(tmp_path):
    class OfUnknownLength:
        name, revision, aggregate, count = "made-up", "1", "mean", None

        def items(self):
            return MadeUp(12).items()

    lab = Laboratory(tmp_path, OfUnknownLength(), ARMS)
    interrupted(lab, 4)
    assert lacking(lab) == (
        "Unfinished: on made-up 4 questions, of a number that is not known yet, are answered by all 3 arms."
    )
    interrupted(lab, 5, limit=8)
    assert lacking(lab) == "Unfinished: on made-up 5 of 8 questions are answered by all 3 arms."


def test_a_file_knows_how_many_questions_it_has(tmp_path):
    rows = [{"question": "How many?", "answer": n, "split": "ab"[n % 2]} for n in range(5)]
    path = jsonl(tmp_path / "mine.jsonl", rows)
    with path.open("a") as file:
        file.write("\n \n")
    assert [JsonlTask("mine", path, split=split).count for split in (None, "a", "b", "c")] == [5, 3, 2, 0]
