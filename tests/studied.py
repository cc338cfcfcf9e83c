"""Tables of the docs, generated from the committed tables of studies."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Sequence
from pathlib import Path

from figures import RESULTS, table

CAPTURE = Path(__file__).parent.parent / "studies" / "attention" / "capture"
Row = dict[str, str]


def rows(name: str, folder: str = "tables", **where: str) -> list[Row]:
    """Rows of a table with the given values in these columns."""
    with (CAPTURE / folder / f"{name}.csv").open(encoding="utf-8", newline="") as file:
        return [row for row in csv.DictReader(file) if all(row[column] == value for column, value in where.items())]


def sure(row: Row, digits: int = 1) -> str:
    """Mean in percent with its confidence interval."""
    mean, low, high = (f"{100 * float(row[side]):.{digits}f}" for side in ("mean", "low", "high"))
    return f"{mean} ({low}–{high})"


def distinct(some: Sequence[Row], column: str) -> list[str]:
    return list(dict.fromkeys(row[column] for row in some))


def whole(folder: str = "tables") -> str:
    """Accuracy, attention mass and sparsity of each condition."""
    made = []
    for name in distinct(rows("whole", folder), "answer from"):
        of = rows("whole", folder, **{"answer from": name})
        found = {(row["figure"], row["queries"]): row for row in of}
        figures = [found.get((figure, queries)) for figure in ("mass", "sparsity") for queries in ("first", "all")]
        cells = ["–" if row is None or not row["mean"] else sure(row) for row in figures]
        made.append([name, f"{100 * float(found['right', 'all']['mean']):.1f}", *cells])
    heads = ["answer from", "right", "mass, first", "mass, all", "sparsity, first", "sparsity, all"]
    return table(heads, made)


def spans() -> str:
    """Distribution of the attention mass over spans, for all queries."""
    of = rows("spans", queries="all", layers="all")
    names = [
        span for span in distinct(of, "span") if any(float(row["mean"]) > 5e-4 for row in of if row["span"] == span)
    ]
    made = [
        [
            f"`{name}`",
            *(f"{100 * float(row['mean']):.1f}" for row in of if row["answer from"] == name and row["span"] in names),
        ]
        for name in distinct(of, "answer from")
    ]
    return table(["answer from", *names], made)


def classes() -> str:
    """Token class -> its shares of the tokens and of the attention mass of the query that predicts the answer."""
    conditions = ("small: own reasoning", "large: small's card")
    made = []
    for sort in distinct(rows("classes"), "class"):
        of = {(row["answer from"], row["part"]): row for row in rows("classes", **{"class": sort})}
        mass = [sure(of[name, "of the mass, first"]) for name in conditions]
        made.append([sort, sure(of[conditions[1], "of tokens"]), *mass])
    return table(["class", "of tokens", *(f"of the mass, `{name}`" for name in conditions)], made)


def overlap() -> str:
    of = [row for row in rows("overlap") if row["queries"]]
    figures = distinct(of, "figure")
    made = [
        [texts, queries, *(sure(row) for row in of if (row["texts"], row["queries"]) == (texts, queries))]
        for texts in distinct(of, "texts")
        for queries in distinct(of, "queries")
    ]
    return table(["texts", "queries", *figures], made)


def bound() -> str:
    """Medians over heads and questions, with 5% and 95% quantiles; one column per condition and reading."""
    names = {
        "kept": "m",
        "tight": "of 2(1 − m)c",
        "tight_plain": "of (1 − m)c",
        "bound": "2(1 − m)c / ‖o‖",
        "moved": "‖o − o_S‖ / ‖o‖",
    }
    shares = {"bound at least as long as the output": "bound ≥ ‖o‖", "most of a bound used": "most used"}
    columns = [
        (role, reading) for role in ("small: own reasoning", "large: small's card") for reading in ("card", "row")
    ]
    found = {(row["answer from"], row["reading"], row["figure"]): row for row in rows("bound", layer="all")}
    made = []
    for figure, label in names.items():
        cells = [found[role, reading, figure] for role, reading in columns]
        made.append([label, *(f"{float(c['50%']):.2f} ({float(c['5%']):.2f}–{float(c['95%']):.2f})" for c in cells)])
    for figure, label in shares.items():
        made.append([label, *(f"{100 * float(found[role, reading, figure]['50%']):.0f}%" for role, reading in columns)])
    return table(["", *(f"{role.split(':')[0]}, {reading}" for role, reading in columns)], made)


def memory() -> str:
    """Peak memory of a capturing forward pass."""
    measured = json.loads((RESULTS / "attention_memory.json").read_text(encoding="utf-8"))["figures"]["measured"]
    mib = 2**20
    return table(
        ["keys", "one layer's row", "held at most", "in rows", "whole maps would be"],
        [
            [
                f"{each['keys']:,}",
                f"{each['row_bytes'] / mib:.1f} MiB",
                f"{each['most_allocated_bytes'] / mib:.1f} MiB",
                f"{each['of_a_row']:.2f}",
                f"{each['whole_maps_bytes'] / 1024 / mib:,.0f} GiB",
            ]
            for each in measured
        ],
    )


STUDIED: dict[str, Callable[[], str]] = {
    "studied attention whole": whole,
    "studied attention spans": spans,
    "studied attention classes": classes,
    "studied attention overlap": overlap,
    "studied attention bound": bound,
    "studied attention memory": memory,
    "studied attention smollm2": lambda: whole("smollm2"),
    "studied attention qwen": lambda: whole("../qwen2.5-coder/tables"),
}
