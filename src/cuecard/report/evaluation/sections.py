"""The chapters of an evaluation's page, each for all tasks; one that has nothing to tell is left out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

from cuecard.evals.analysis.results import TaskFound
from cuecard.report.evaluation import categories, html_tables, sentences
from cuecard.report.evaluation.inputs import Evaluation
from cuecard.report.evaluation.questions import drill_down, gallery
from cuecard.report.evaluation.sentences import share
from cuecard.report.page.html import Drawing, bullets, figure, of_task, section, table, wide

Drawn = Mapping[str, Sequence[Drawing]]


def _summary(shown: Evaluation, drawn: Drawn) -> str:
    found = shown.found
    stale = sentences.stale(shown.summary["scorer"])
    parts = [f'<p class="warning">{escape(stale)}</p>'] if stale else []
    parts += [part for task in found.tasks for part in (_head(shown, task), bullets(sentences.summary(task, found)))]
    soft = (
        "Differences are paired, on the questions that both arms answered; p-values are adjusted by Holm's method over"
        " all arms and tasks of this run, significant is 0.05. Intervals are 95% and count questions of one image as"
        " one draw. Overlapping intervals say nothing about a difference: the tests do."
    )
    return section("Summary", *parts, soft=soft)


def _results(shown: Evaluation, drawn: Drawn) -> str:
    parts, found = [], shown.found
    for task in found.tasks:
        heads, rows = html_tables.results(task)
        caption = (
            "Tokens: generated a question. Latency: mean a question and 90th percentile,"
            f" {sentences.kinds(task.plain)}. On the front: no other arm is as accurate for less."
        )
        parts += [_head(shown, task), wide(table(heads, rows, texts=[len(heads) - 1]), caption)]
        heads, rows = html_tables.against(task, found.margin)
        caption = (
            f"Against {found.baseline}: points of accuracy with their interval, questions that are better and worse,"
            " p adjusted by Holm's method; whether all extractors agree; whether it is shown that the arm loses less"
            f" than {100 * found.margin:g} in 100; the ratio of mean latencies, composed, and of both run end to end."
        )
        parts += [wide(table(heads, rows, texts=(5, 6)), caption)] if rows else []
    return section("Results", *parts)


def _categories(shown: Evaluation, drawn: Drawn) -> str:
    parts: list[str] = []
    for task in shown.found.tasks:
        told, arms = shown.summary["tasks"][task.task], [arm.arm for arm in task.plain]
        made = []
        if five := categories.pope(told, arms):
            caption = "POPE's five figures, yes being positive; an answer that cannot be parsed says neither."
            made.append(wide(table(*five, texts=[1]), caption))
        elif by := categories.accuracies(told, arms):
            unit = "" if task.unit == "question" else f", by {task.unit}"
            made.append(wide(table(*by), f"Right in each category{unit}; in brackets its questions."))
        parts += [_head(shown, task), *made] if made else []
    return section("By category", *parts)


def _tokens(shown: Evaluation, drawn: Drawn) -> str:
    return section("Accuracy against tokens", *_figures(shown, drawn, "tokens"))


def _request(shown: Evaluation, drawn: Drawn) -> str:
    parts = []
    for asked in shown.requests:
        case = asked.case
        said = f"“{case.question.text}” Right: {case.gold}. ({case.task}, question {case.id}: {asked.about}.)"
        parts += [f"<p>{escape(said)}</p>", *map(figure, drawn.get(f"request {case.task}", ()))]
    soft = (
        "The same question under several arms, on one scale. A bar is pale until the call's first token; the grey band"
        " is the hand-off, from the small model's last reasoning token to the large model's first answer token."
    )
    return section("One request, call by call", *parts, soft=soft)


def _routes(shown: Evaluation, drawn: Drawn) -> str:
    parts: list[str] = []
    for task in shown.found.tasks:
        choosing = [arm for arm in task.plain if len(arm.routes) > 1]
        for arm in choosing:
            heads, rows = html_tables.routes(arm)
            caption = f"Tokens: generated a question. Latency: mean a question, {arm.kind or 'not known'}."
            parts += [f"<h4>{escape(f'{task.task}, {arm.arm}')}</h4>", wide(table(heads, rows, total=True), caption)]
    soft = "As table 10 of the paper: every question ends in exactly one route, so routes sum to all questions."
    return section("Routes", *parts, soft=soft)


def _fronts(shown: Evaluation, drawn: Drawn) -> str:
    return section("Accuracy against cost", *_figures(shown, drawn, "fronts"))


def _placebos(shown: Evaluation, drawn: Drawn) -> str:
    soft = (
        "What of a card helps: its words (shuffled), its beginning (truncated), that there is one (foreign), its last"
        " line (wrong), or the answer alone (oracle). Empty: no reasoning at all."
    )
    return section("Placebo cards", *_figures(shown, drawn, "placebos"), soft=soft)


def _cuts(shown: Evaluation, drawn: Drawn) -> str:
    soft = (
        "What is left of a card's words when only a share is kept, by who chooses them. Differences are paired, against"
        " the same arm with the whole card; they are in tables/differences.csv, family cuts."
    )
    return section("Cut cards", *_figures(shown, drawn, "cuts"), soft=soft)


def _extraction(shown: Evaluation, drawn: Drawn) -> str:
    parts = []
    for task in shown.found.tasks:
        heads, rows = html_tables.reading(task)
        caption = "Not parsed, cut off: shares of the answers given. Measured."
        parts += [*_figures(shown, drawn, "extractors", [task]), wide(table(heads, rows), caption) if rows else ""]
    return section("Is it the parser?", *parts)


def _acceptance(shown: Evaluation, drawn: Drawn) -> str:
    parts = []
    for task in shown.found.tasks:
        if not task.rules:
            continue
        heads, rows = html_tables.accepting(task)
        caption = "False accepts: wrong ones among those accepted. Measured on short answers of both models."
        parts += [*_figures(shown, drawn, "rules", [task]), wide(table(heads, rows), caption)]
        if task.shared is not None:
            parts.append(f"<p>{escape(sentences.shared(task.shared))}</p>")
    return section("What agreement lets through", *parts)


def _live(shown: Evaluation, drawn: Drawn) -> str:
    heads = ["arm", "questions", "composed", "measured", "ratio", "same answer", "same route"]
    parts = []
    for task in shown.found.tasks:
        both = shown.summary["tasks"][task.task]["composed_against_measured"]
        rows = [
            [
                arm,
                f"{each['questions']:,}",
                sentences.seconds(each["composed_mean_s"]),
                sentences.seconds(each["measured_mean_s"]),
                "–" if each["ratio"] is None else f"{each['ratio']:.2f}",
                share(each["same_answer"]),
                share(each["same_route"]),
            ]
            for arm, each in both.items()
        ]
        parts += [_head(shown, task), wide(table(heads, rows), "")] if rows else []
    pace = shown.summary["pace"]
    told = f" Of two calls at once each keeps {share(pace)} of its pace, measured, and is composed so."
    beside = "" if pace is None else told
    soft = (
        "The same arms run end to end (measured) and put together from calls that were made once (composed), on the"
        " same questions. A ratio far from 1 says that composed latencies of this run are not those of a live system."
        + beside
    )
    return section("Composed against measured", *parts, soft=soft)


def _ledger(shown: Evaluation, drawn: Drawn) -> str:
    parts = []
    for task in shown.found.tasks:
        heads, rows = html_tables.spending(task)
        caption = "Tokens of all questions together, counted."
        parts += [_head(shown, task), wide(table(heads, rows), caption)] if rows else []
        for arm in task.plain:
            if arm.ledger is None:
                continue
            booked = wide(table(*html_tables.booked(arm.ledger), texts=(1, 2, 3), total=True), "")
            said = escape(f"{task.task}, {arm.arm}")
            parts.append(f"<details><summary>{said}</summary><div>{booked}</div></details>")
    soft = (
        "Every total equals its parts, counted twice. Wasted tokens are those of cancelled and failed calls. A model's"
        " seconds count once for each call, an asker's once for each question."
    )
    return section("Ledger", *parts, soft=soft)


def _gallery(shown: Evaluation, drawn: Drawn) -> str:
    parts = []
    for each in shown.galleries:
        task = next(task for task in shown.found.tasks if task.task == each.task)
        parts += [_head(shown, task), *gallery(each, sentences.card(each, task), shown.picture)]
    return section("Where the card helped, and where it misled", *parts)


def _questions(shown: Evaluation, drawn: Drawn) -> str:
    parts = []
    for task in shown.found.tasks:
        parts += [_head(shown, task), drill_down(task, shown.questions[task.task], shown.picture)]
    return section("Question by question", *parts)


def _about(shown: Evaluation, drawn: Drawn) -> str:
    facts = "".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in shown.about)
    return section("About this run", f"<dl>{facts}</dl>")


CHAPTERS = (
    _summary,
    _results,
    _categories,
    _tokens,
    _request,
    _routes,
    _fronts,
    _placebos,
    _cuts,
    _extraction,
    _acceptance,
    _live,
    _ledger,
    _gallery,
    _questions,
    _about,
)


def _head(shown: Evaluation, task: TaskFound) -> str:
    return of_task(task.task, len(shown.found.tasks) > 1)


def _figures(shown: Evaluation, drawn: Drawn, part: str, tasks: Sequence[TaskFound] | None = None) -> list[str]:
    names = [task.task for task in tasks or shown.found.tasks]
    return [figure(each) for name in names for each in drawn.get(f"{part} {name}", ())]
