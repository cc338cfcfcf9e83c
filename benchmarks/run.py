"""All benchmarks, one after the other, each in a process of its own so that none warms the next one up."""

import subprocess
import sys
from pathlib import Path

for name in ("decode", "handoff", "overhead", "strategies"):
    print(f"--- {name}", flush=True)
    subprocess.run([sys.executable, Path(__file__).parent / f"{name}.py"], check=True)
