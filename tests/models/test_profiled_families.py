"""Profiles of checkpoints of other families, with prompts laid out by their own processors."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from cuecard.latency import readings
from cuecard.latency.inside import profile as profiles
from cuecard.latency.inside.profile import InProcessProfile, profile
from cuecard.latency.rounds import Grid

SEEING = {"qwen3_vl": "fused", "qwen2_5_vl": "fused", "llava": "fused", "idefics3": "sdpa", "gemma3": "sdpa"}
"""Family -> its default decoding."""


@pytest.mark.parametrize("family", SEEING)
def test_every_family_has_all_parts_and_exact_counts(
    family: str, checkpoints: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(profiles, "probe", lambda *_: {})
    grid = Grid((3,), (64,), text_tokens=(8,), cached_text_tokens=(None, 4), batch=(1, 2))
    profile(
        InProcessProfile([str(checkpoints(family))], grid, repeats=1),
        tmp_path,
        {"date": "2026-11-25"},
        lambda progress: None,
    )
    made = [each for each in readings.read(tmp_path) if not each.warmup]
    assert len(made) == 4
    for each in made:
        point = each.point
        assert point.attention == SEEING[family]
        assert point.visual_tokens
        assert each.seen.output_tokens == 3
        assert point.prompt_tokens is not None
        if point.cached_tokens is None:
            assert {"preprocess", "vision", "projector", "prefill", "decode"} <= set(each.parts_s)
        else:
            assert point.prompt_tokens == point.cached_tokens + 8
            assert "vision" not in each.parts_s
