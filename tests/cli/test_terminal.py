"""Styles of the output."""

from __future__ import annotations

import pytest

from program import run as cuecard


@pytest.mark.parametrize("words", [("models",), ("tasks",), ("ask",), ("--help",), ("ask", "--help")], ids=" ".join)
def test_no_style_is_written_if_no_color_is_set(words: tuple[str, ...]) -> None:
    styled, plain = (cuecard(*words, FORCE_COLOR="1", NO_COLOR=given) for given in ("", "1"))
    assert "\x1b" in styled.stdout + styled.stderr
    assert "\x1b" not in plain.stdout + plain.stderr
    assert (plain.stdout + plain.stderr).strip()
