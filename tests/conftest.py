"""What tests of several rooms share."""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

# no test probes a server, nor reads what was found about one, unless it is about that
os.environ["CUECARD_NO_PROBE"] = "1"
# nor starts processes for models, unless it is about them
os.environ["CUECARD_NO_PROCESSES"] = "1"
os.environ["XDG_CACHE_HOME"] = tempfile.mkdtemp(prefix="cuecard-tests-")

# what a study brings along is tested as the package is
sys.path.append(str(Path(__file__).parents[1] / "studies" / "attention"))

import pytest

from cuecard.demo import boards


@pytest.fixture(scope="session")
def board(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A board of held-out digits, as a PNG file."""
    path = tmp_path_factory.mktemp("images") / "board.png"
    path.write_bytes(boards.exercises(1, 0)[0].question.images[0].data)
    return path
