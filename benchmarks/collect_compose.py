"""Check that arms composed from stored calls keep their figures, and count the calls of a run.

    python benchmarks/collect_compose.py make FOLDER       run every arm of the committed studies with the embedded pair
    python benchmarks/collect_compose.py compare FOLDER    compose the answers of that run again, without any call

`make` prints the number of calls. `compare` works on a copy of FOLDER without answers, and lists the answers that
differ from those in FOLDER. Another version of the code may have made FOLDER.
"""

from __future__ import annotations

import json
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path
from typing import Any

STUDIES = Path(__file__).parents[1] / "studies"
MORE = (
    "transfer/overlap/early-stop=2:4",
    "mutual/eager/early-stop=2:8:0.9",
    "vote/overlap/samples=3",
    "verdict/overlap",
    "cascade/overlap",
    "route/overlap",
    "transfer/overlap/keep=0.5/select=attention",
    "mutual/eager/keep=0.3/select=surprise",
    "mutual/overlap/placebo=foreign",
    "mutual/overlap/budget=32",
)
"""Arms that are in no committed study."""


def arms() -> list[str]:
    """The arms of all committed studies, and `MORE`."""
    files = sorted(STUDIES.rglob("*.toml"))
    named = [arm for file in files for arm in tomllib.loads(file.read_text(encoding="utf-8")).get("arms", ())]
    return list(dict.fromkeys((*named, *MORE)))


def study(folder: Path, items: int) -> Path:
    """Write a study of the embedded pair with all arms; returns the file."""
    lines = [
        'name = "collect-compose"',
        f"out = {json.dumps(str(folder / 'run'))}",
        f'tasks = ["boards:count={items},seed=11", "easy-vqa:count={items // 2},seed=11"]',
        f"arms = {json.dumps(arms())}",
        *('[small]\nmodel = "demo-small"', '[large]\nmodel = "demo-large"'),
    ]
    file = folder / "study.toml"
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return file


def cuecard(*arguments: object) -> None:
    """Run `python -m cuecard` in a subprocess. Raises CalledProcessError."""
    subprocess.run([sys.executable, "-m", "cuecard", *map(str, arguments)], check=True, stdout=subprocess.DEVNULL)


def rows(folder: Path, table: str, columns: str) -> dict[tuple[str, ...], Any]:
    with sqlite3.connect(folder / "run" / "run.sqlite") as connection:
        return {tuple(row[:-1]): json.loads(row[-1]) for row in connection.execute(f"SELECT {columns} FROM {table}")}


def make(folder: Path, items: int = 12) -> None:
    folder.mkdir(parents=True)
    cuecard("study", study(folder, items))
    calls = rows(folder, "calls", "key, record")
    warm = sum(bool(call["warm"]) for call in calls.values())
    print(f"{len(calls)} calls ({warm} of them found their question computed) for {len(arms())} arms")


def differing(one: Any, other: Any) -> list[str]:
    """The names of the fields that differ, except the scorer's version, which is a hash of sources."""
    one, other = one or {}, other or {}
    return sorted(name for name in one.keys() | other.keys() if name != "scorer" and one.get(name) != other.get(name))


def compare(folder: Path) -> None:
    """Compose the answers of a copy again. Raises SystemExit if an answer differs or a call is made."""
    before, calls = rows(folder, "answers", "task, id, arm, record"), len(rows(folder, "calls", "key, record"))
    with tempfile.TemporaryDirectory() as place:
        copy = Path(place) / "again"
        shutil.copytree(folder, copy)
        file = copy / "study.toml"
        file.write_text(file.read_text(encoding="utf-8").replace(str(folder), str(copy)), encoding="utf-8")
        with sqlite3.connect(copy / "run" / "run.sqlite") as connection:
            connection.execute("DELETE FROM answers")
        cuecard("study", file)
        after = rows(copy, "answers", "task, id, arm, record")
        more = len(rows(copy, "calls", "key, record")) - calls
    fields = {key: differing(before.get(key), after.get(key)) for key in before.keys() | after.keys()}
    differ = {key: names for key, names in fields.items() if names}
    print(f"{len(before)} answers, {len(differ)} differ, {more} calls were made")
    for key, names in sorted(differ.items())[:20]:
        print("  ", *key, names)
    if differ or more:
        raise SystemExit(1)


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["make", folder, *items]:
            make(Path(folder), *map(int, items))
        case ["compare", folder]:
            compare(Path(folder))
        case _:
            raise SystemExit(__doc__)
