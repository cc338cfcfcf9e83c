"""A profile's page: each figure as SVG and PNG with a caption that names the source of its numbers, and tables."""

from __future__ import annotations

import csv
import json
import re
from functools import cache
from pathlib import Path
from tempfile import mkdtemp

import pytest
from made_up import SMALL, profiled
from typer.testing import CliRunner

from cuecard.cli import app
from cuecard.latency import breakeven

pytestmark = pytest.mark.slow

SIZES = {"layers": 2, "hidden": 64, "heads": 2, "kv_heads": 1, "head_dim": 32, "intermediate": 128}
DIMENSIONS = {
    "text": {**SIZES, "vocabulary": 500, "tied": True, "experts": 0, "active": 0},
    "vision": {
        "layers": 2, "hidden": 64, "heads": 2, "intermediate": 128, "patch_values": 1536, "merge": 2, "out": 64,
        "mergers": 1,
    },
}  # fmt: skip
PEAK = {"flops_per_s": 1e9, "bytes_per_s": 1e8}
PROBE = {"device": "made up", "dtypes": {"bfloat16": {"measured": PEAK, "datasheet": None}}}


@cache
def reported() -> Path:
    """A profile with dimensions and a probe, and its report."""
    path = profiled(Path(mkdtemp()), noise=0.02)
    about = json.loads((path / "profile.json").read_text())
    about["config"]["models"] = {name: {"dimensions": DIMENSIONS} for name in about["config"]["models"]}
    (path / "profile.json").write_text(json.dumps({**about, "probe": PROBE}))
    run("breakeven", str(path), "--agree", "0.86", "--draws", "20", "--output-tokens", "1,16,128")
    run("report", str(path))
    return path


def run(*args: str) -> str:
    result = CliRunner().invoke(app, list(args))
    assert result.exit_code == 0, (result.output, result.exception)
    return result.output


@pytest.mark.parametrize(
    "name",
    [
        "latency-tiny-2b-tiny-8b",
        "components",
        "break-even-thrifty-tiny-2b-tiny-8b",
        "break-even-overlap-tiny-2b-tiny-8b",
        "break-even-eager-tiny-2b-tiny-8b",
        "roofline-bfloat16",
    ],
)
def test_each_figure_is_written_as_svg_and_png_and_its_caption_says_where_it_comes_from(name: str) -> None:
    folder = reported() / "figures"
    assert (folder / f"{name}.svg").read_text().startswith("<svg")
    assert (folder / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    (caption,) = re.findall(rf"^{name}: (.*)$", (folder / "captions.txt").read_text(), re.MULTILINE)
    assert re.search("[Mm]easured|[Ee]stimated", caption)


def test_the_page_needs_nothing_from_elsewhere_and_holds_every_chapter() -> None:
    page = (reported() / "report.html").read_text()
    assert not re.findall(r"""(?:src|href)=["']?https?:""", page)
    assert "<script" not in page
    chapters = ["Summary", "Latency against output tokens", "Where the time goes", "The fit", "Break-even", "Roofline"]
    assert [head for head in re.findall(r"<h2[^>]*>([^<]+)</h2>", page) if head in chapters] == chapters


def test_the_tables_hold_what_the_figures_show() -> None:
    def rows(name: str) -> list[dict[str, str]]:
        with (reported() / "tables" / f"{name}.csv").open() as file:
            return list(csv.DictReader(file))

    assert len(rows("points")) == 24
    assert {row["kind"] for row in rows("points")} == {"measured"}
    (found,) = breakeven.read(reported() / "breakeven.json")
    assert len(rows("break_even")) == len(found.alone) + len(found.together)
    assert {row["label"] for row in rows("break_even")} == {"estimated"}
    assert {row["component"] for row in rows("roofline")} == {"vision", "projector", "prefill", "decode"}
    assert all(float(row["times"]) > 0 for row in rows("roofline"))


def test_one_model_alone_has_a_page_without_break_even_points(tmp_path: Path) -> None:
    profiled(tmp_path, models={"tiny-2b": SMALL})
    run("report", str(tmp_path))
    page = (tmp_path / "report.html").read_text()
    assert "Where the time goes" in page
    assert "Break-even" not in page
    assert not (tmp_path / "breakeven.json").exists()


def test_names_of_models_are_text_and_never_markup(tmp_path: Path) -> None:
    profiled(tmp_path, models={"<b>$x_1$": SMALL, "b": SMALL})
    run("breakeven", str(tmp_path), "--draws", "0", "--output-tokens", "4")
    run("report", str(tmp_path))
    assert "<b>$x" not in (tmp_path / "report.html").read_text()


def test_break_even_points_with_a_model_of_another_directory_are_shown_without_its_curve(tmp_path: Path) -> None:
    profiled(tmp_path / "a", models={"tiny-2b": SMALL})
    profiled(tmp_path / "b", models={"tiny-8b": SMALL})
    run("breakeven", str(tmp_path / "a"), str(tmp_path / "b"), "--draws", "0", "--output-tokens", "4")
    run("report", str(tmp_path / "a"))
    page = (tmp_path / "a" / "report.html").read_text()
    assert "tiny-8b writes" in page
    assert "Latency against output tokens" not in page
