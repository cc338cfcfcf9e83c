"""Run all benchmarks one after the other, each in its own process so that none warms up the next."""

import subprocess
import sys
from pathlib import Path

for name in ("decode", "handoff", "overhead", "strategies"):
    print(f"--- {name}", flush=True)
    subprocess.run([sys.executable, Path(__file__).parent / f"{name}.py"], check=True)
