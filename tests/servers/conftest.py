"""A gateway with the embedded pair, and a picture from its training distribution."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest
from programs import CUECARD, free_port, running

from cuecard.demo import boards


@pytest.fixture(scope="session")
def picture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pictures") / "board.png"
    path.write_bytes(boards.png(boards.draw(boards.make_board(Random(3), "test"))).data)
    return path


@pytest.fixture(scope="module")
def embedded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The base URL of `cuecard serve` with the embedded pair."""
    base = f"http://127.0.0.1:{(port := free_port())}"
    log = tmp_path_factory.mktemp("logs") / "cuecard"
    with running([CUECARD, "serve", "--port", str(port)], f"{base}/ready", log, 60):
        yield f"{base}/v1"
