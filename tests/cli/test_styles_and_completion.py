"""Styles of the output, and completion of commands and options in a shell."""

from __future__ import annotations

import pytest

from program import run as cuecard


@pytest.mark.parametrize("words", [("models",), ("tasks",), ("ask",), ("--help",), ("ask", "--help")], ids=" ".join)
def test_no_style_is_written_if_no_color_is_set(words: tuple[str, ...]) -> None:
    styled, plain = (cuecard(*words, FORCE_COLOR="1", NO_COLOR=given) for given in ("", "1"))
    assert "\x1b" in styled.stdout + styled.stderr
    assert "\x1b" not in plain.stdout + plain.stderr
    assert (plain.stdout + plain.stderr).strip()


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("cuecard re", ["replay", "report", "rescore"]),
        ("cuecard ask --stra", ["--strategy"]),
        ("cuecard export v", ["vlmevalkit"]),
    ],
)
def test_a_shell_completes_commands_and_options(words: str, expected: list[str]) -> None:
    done = cuecard(_CUECARD_COMPLETE="complete_bash", COMP_WORDS=words, COMP_CWORD=str(words.count(" ")))
    assert (done.returncode, done.stdout.split(), done.stderr) == (0, expected, "")
