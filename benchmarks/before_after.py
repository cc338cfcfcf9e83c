"""Compare two revisions:  python benchmarks/before_after.py BEFORE [AFTER] [--rounds 2] [--only NAME ...]

Each revision is checked out into its own folder and runs its own copy of the benchmark scripts. The revisions run in
turn, in reverse order every second round, so that changes of the machine affect both. Prints and saves the median of
each figure for both revisions, and their ratio.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from common import save

ROOT = Path(__file__).parent.parent
NAMES = {"overhead": [], "evals": [], "gateway": ["--seconds", "24", "--clients", "50"]}
CONSTANT = ("questions", "runs", "short_s", "reason_s", "calls", "clients", "model_questions_counted")


def git(*words: str) -> str:
    return subprocess.run(["git", "-C", str(ROOT), *words], check=True, capture_output=True, text=True).stdout.strip()


def leaves(figures: Any, path: str = "") -> Iterator[tuple[str, float]]:
    """Every number in nested figures with its path, without the benchmark's settings."""
    if isinstance(figures, dict):
        for key, value in figures.items():
            if key not in CONSTANT:
                yield from leaves(value, f"{path}/{key}" if path else key)
    elif isinstance(figures, int | float):
        yield path, float(figures)


def measured(tree: Path, name: str) -> dict[str, float]:
    """Run a benchmark of one revision; returns its figures by path."""
    env = os.environ | {"PYTHONPATH": str(tree / "src"), "OMP_NUM_THREADS": "1"}
    subprocess.run(
        [sys.executable, f"benchmarks/{name}.py", *NAMES[name]],
        cwd=tree,
        env=env,
        check=True,
        stdout=subprocess.DEVNULL,
    )
    return dict(leaves(json.loads((tree / "benchmarks" / "results" / f"{name}.json").read_text())["figures"]))


def main() -> None:
    parser = argparse.ArgumentParser(description="Two revisions side by side.")
    parser.add_argument("before")
    parser.add_argument("after", nargs="?", default="HEAD")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--only", nargs="+", choices=NAMES, default=list(NAMES))
    args = parser.parse_args()
    revisions = {side: git("rev-parse", "--short", getattr(args, side)) for side in ("before", "after")}
    seen: dict[str, dict[str, dict[str, list[float]]]] = defaultdict(lambda: defaultdict(lambda: defaultdict(list)))
    with tempfile.TemporaryDirectory() as folder:
        trees = {side: Path(folder) / side for side in revisions}
        try:
            for side, revision in revisions.items():
                git("worktree", "add", "--detach", str(trees[side]), revision)
            for name in args.only:
                for number in range(args.rounds):
                    for side in list(trees)[:: -1 if number % 2 else 1]:
                        print(f"{name}, round {number + 1}, {side}", file=sys.stderr, flush=True)
                        for path, value in measured(trees[side], name).items():
                            seen[name][path][side].append(value)
        finally:
            for tree in trees.values():
                git("worktree", "remove", "--force", str(tree))
    figures: dict[str, Any] = {"revisions": revisions, "rounds": args.rounds}
    for name, paths in seen.items():
        print(f"\n{name:44} {'before':>12} {'after':>12} {'ratio':>7}")
        figures[name] = {}
        for path, sides in paths.items():
            if len(sides) == 2:
                before, after = (statistics.median(sides[side]) for side in ("before", "after"))
                ratio = after / before if before else None
                figures[name][path] = {"before": before, "after": after, "ratio": ratio}
                print(f"{path:44} {before:12.4g} {after:12.4g} {'-' if ratio is None else f'{ratio:.2f}':>7}")
    print(f"\n{save('before_after', figures)}")


if __name__ == "__main__":
    main()
