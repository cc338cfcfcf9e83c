"""Child of `maths`: replies to {"truth": …, "given": …} with {"same": …}, a line each. Needs no Cuecard."""

from __future__ import annotations

import json
import sys
from importlib import import_module
from typing import Any


def main() -> None:
    """Answer until the input ends. An expression that cannot be read is never the same as another."""
    maths = import_module("math_verify")
    latex = [maths.LatexExtractionConfig()]

    def parsed(expression: str) -> Any:
        return maths.parse(f"${expression}$", extraction_config=latex, parsing_timeout=None)

    for line in sys.stdin:
        pair = json.loads(line)
        same = "truth" in pair and maths.verify(parsed(pair["truth"]), parsed(pair["given"]), timeout_seconds=None)
        print(json.dumps({"same": bool(same), "bytes": 0}), flush=True)


if __name__ == "__main__":
    main()
