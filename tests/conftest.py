"""Environment and fixtures shared by all tests."""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

# tests neither probe servers nor read stored probe results, except tests of probing
os.environ["CUECARD_NO_PROBE"] = "1"
# models run without child processes, except in tests of these
os.environ["CUECARD_NO_PROCESSES"] = "1"
# clients of tests connect without TLS: loading the system's certificates takes 25 ms for each client
os.environ.pop("SSL_CERT_FILE", None)
os.environ["SSL_CERT_DIR"] = tempfile.mkdtemp(prefix="cuecard-tests-")
os.environ["XDG_CACHE_HOME"] = tempfile.mkdtemp(prefix="cuecard-tests-")

# makes the code of a study importable for its tests
sys.path.append(str(Path(__file__).parents[1] / "studies" / "attention"))

import pytest

from cuecard.demo import boards


@pytest.fixture(scope="session")
def board(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A PNG file of a board with held-out digits."""
    path = tmp_path_factory.mktemp("images") / "board.png"
    path.write_bytes(boards.exercises(1, 0)[0].question.images[0].data)
    return path
