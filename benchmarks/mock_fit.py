"""Profile and fit a server with known latencies: the fitted coefficients and their errors."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path
from random import Random
from typing import Any

from common import save
from cuecard.latency import fit
from cuecard.latency.server_profile import ServerProfile, profile
from cuecard.models.spec import Served
from cuecard.report.formatting import machine
from cuecard.testing.mock_server import MockServer
from cuecard.testing.replies import Completion, Pace

PACE = Pace(first_s=0.05, prompt_token_s=1e-4, token_s=0.008)
KNOWN = {"fixed_s": PACE.first_s, "prefill_s_per_token": PACE.prompt_token_s, "decode_s_per_token": PACE.token_s}


async def measure(out: Path) -> None:
    async with MockServer([Completion("four five six", pace=PACE)], visual_px=32, running_usage=True) as url:
        wish = ServerProfile(
            [Served(url, "mock")],
            output_tokens=(1, 8, 32, 64),
            image_px=(None, 448, 1024),
            text_tokens=(48, 384),
            repeats=1,
            chance=Random(1),
        )
        await profile(wish, out, machine(), lambda progress: None)


def main() -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(measure(Path(folder)))
        (found,) = fit.fits(Path(folder))
    coefficients = {name: {"known_s": value, "found_s": getattr(found.profile, name)} for name, value in KNOWN.items()}
    errors = {
        name: {"median": each.median, "p90": each.p90, "points": each.points} for name, each in found.held_out.items()
    }
    for name, each in (coefficients | errors).items():
        print(name, each)
    return {"coefficients": coefficients, "held_out": errors, "readings": found.readings}


if __name__ == "__main__":
    print(save("mock_fit", main()))
