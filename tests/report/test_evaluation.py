"""The report of an evaluation: a self-contained page, captioned figures and tables."""

from __future__ import annotations

import csv
import json
import re
from html.parser import HTMLParser
from xml.etree import ElementTree

import pytest
from runs import HOSTILE, run_directory
from typer.testing import CliRunner

from cuecard.cli import app
from cuecard.report.canvas import ScatterPoint, file_name, scatter, svg
from cuecard.report.evaluation import sentences
from cuecard.report.html import environment, thumbnail, write_csv
from cuecard.stats import Interval

HEADINGS = [
    "Summary",
    "Results",
    "Accuracy against tokens",
    "One request, call by call",
    "Routes",
    "Accuracy against cost",
    "Placebo cards",
    "Is it the parser?",
    "What agreement lets through",
    "Ledger",
    "Where the card helped, and where it misled",
    "Question by question",
    "Terms",
    "About this run",
]


def reported(run, *options):
    done = CliRunner().invoke(app, ["report", str(run), *options])
    assert done.exit_code == 0, done.output or done.exception
    return run / "report.html"


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    run = run_directory(tmp_path_factory.mktemp("reported") / "run")
    prices = [part for model in ("tiny", "huge") for part in ("--price", f"{model}=1,2")]
    return reported(run, "--questions", "5", *prices)


@pytest.fixture(scope="module")
def html(page):
    return page.read_text(encoding="utf-8")


class Tags(HTMLParser):
    """Collects every start tag and every address (src, href, action)."""

    def __init__(self, text):
        super().__init__()
        self.seen, self.addresses, self.open, self.text = [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.seen.append(tag)
        self.addresses += [value for name, value in attributes if name in ("src", "href", "xlink:href", "action")]
        if tag not in ("meta", "img", "input", "br") and tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_startendtag(self, tag, attributes):
        self.seen.append(tag)
        self.addresses += [value for name, value in attributes if name in ("src", "href", "xlink:href")]

    def handle_data(self, data):
        self.text.append(data)


VOID = ("link", "hr")


def test_the_page_has_every_chapter_in_order_and_well_formed_tags(html):
    assert re.findall(r"<h2[^>]*>(.*?)</h2>", html) == HEADINGS
    assert Tags(html).open == []


def test_the_page_asks_nothing_of_the_network_and_runs_no_script(html):
    tags = Tags(html)
    assert not {"script", "iframe", "object", "link", "form"} & set(tags.seen)
    assert all(address.startswith(("data:image/png;base64,", "#")) for address in tags.addresses)
    assert "default-src 'none'" in html
    assert not re.search(r"url\((?!#)|@import", html)


def test_the_contents_link_to_every_section_and_terms_are_explained(html):
    contents = html.split("<nav")[1].split("</nav>")[0]
    assert re.findall(r'href="#([^"]+)"', contents) == re.findall(r'<h2 id="([^"]+)"', html)
    assert "<dt>hand-off</dt>" in html
    assert "<dt>sparsity</dt>" not in html


def test_what_models_and_questions_say_is_shown_and_never_becomes_markup(html):
    assert HOSTILE not in html
    assert HOSTILE in "".join(Tags(html).text)
    assert "<i>card</i>" not in html
    assert "<b>green</b>" not in html
    assert "<b>test</b>" not in html


def test_every_figure_has_a_caption_that_says_where_its_numbers_come_from(page, html):
    captions = (page.parent / "figures" / "captions.txt").read_text(encoding="utf-8").strip().split("\n\n")
    drawn = {path.stem for path in (page.parent / "figures").glob("*.svg")}
    assert {caption.split(": ")[0] for caption in captions} == drawn
    kinds = ("measured", "composed", "estimated", "counted")
    assert all(any(kind in caption.lower() for kind in kinds) for caption in captions)
    assert html.count("<svg") == len(drawn)


def test_every_figure_is_an_svg_that_stands_alone_and_a_png_with_its_caption(page):
    folder = page.parent / "figures"
    for path in folder.glob("*.svg"):
        assert ElementTree.parse(path).getroot().get("aria-label")
        picture = path.with_suffix(".png").read_bytes()
        assert picture.startswith(b"\x89PNG")
        assert b"Description" in picture[:2000]


def test_there_are_the_figures_of_the_paper_and_a_front_for_each_cost(page):
    names = {path.stem for path in (page.parent / "figures").glob("*.svg")}
    assert {"accuracy-tokens-pictured", "request-mutual-pictured", "request-reason-large-pictured"} <= names
    assert {"front-latency-pictured", "front-tokens-pictured", "front-price-pictured"} <= names
    assert {"placebos-transfer-pictured", "false-accepts-pictured"} <= names


def test_as_many_questions_are_shown_as_asked_for_and_the_page_says_of_how_many(html):
    assert "5 of 12 questions" in html
    assert html.split('id="question-by-question"')[1].count("<details") == 5


def test_the_gallery_shows_thumbnails_and_not_the_images_as_they_are(page, html):
    shown = html.split('id="where-the-card-helped')[1].split('id="question-by-question"')[0]
    assert shown.count("<article>") == 5  # four where the card helped, one where it misled
    assert shown.count("<img") == 5
    assert len(shown) < 60_000


def test_the_tables_hold_every_answer_and_agree_with_the_page(page):
    tables = page.parent / "tables"
    with (tables / "answers.csv").open(encoding="utf-8", newline="") as file:
        answers = list(csv.DictReader(file))
    assert len(answers) == 12 * 7
    with (tables / "routes.csv").open(encoding="utf-8", newline="") as file:
        routes = list(csv.DictReader(file))
    assert sum(int(row["questions"]) for row in routes if row["arm"] == "mutual") == 12
    with (tables / "arms.csv").open(encoding="utf-8", newline="") as file:
        arms = {row["arm"]: row for row in csv.DictReader(file)}
    assert float(arms["mutual"]["accuracy"]) == pytest.approx(10 / 12)
    assert arms["mutual"]["latency"] == "composed"


def test_parquet_holds_the_same_answers(page):
    parquet = pytest.importorskip("pyarrow.parquet")
    shown = parquet.read_table(page.parent / "tables" / "answers.parquet").to_pylist()
    assert len(shown) == 12 * 7
    assert shown[0]["question"].startswith("Question 0")


def test_summary_and_findings_lie_beside_the_page_as_json(page):
    summary = json.loads((page.parent / "summary.json").read_text(encoding="utf-8"))
    findings = json.loads((page.parent / "findings.json").read_text(encoding="utf-8"))
    assert summary["tasks"]["pictured"]["arms"]["mutual"]["accuracy"] == pytest.approx(10 / 12)
    assert findings["tasks"][0]["arms"]["mutual"]["accuracy"]["estimate"] == pytest.approx(10 / 12)


def test_the_summary_names_the_most_accurate_arm_with_interval_and_significance(html):
    text = "".join(Tags(html.split("Results</h2>")[0]).text)
    assert "right most often" in text
    assert "95% interval" in text
    assert "significant: adjusted p" in text
    assert "the swap of the extractor" in text
    assert "times" in text
    assert "composed" in text


def test_the_first_screen_says_whether_the_pair_pays_by_how_much_and_how_sure_that_is(html):
    first = "".join(Tags(html.split("<nav")[0]).text)
    assert "Does the pair pay on pictured?" in first
    assert re.search(r"It pays|It does not pay|Not shown to pay", first)
    assert "of accuracy" in first
    assert "95% interval" in first
    assert "adjusted p" in first


def test_what_is_wider_than_a_phone_says_there_that_it_scrolls(html):
    assert "scroll sideways" in html.split("</style>")[0]
    boxes = re.findall(r'<div class="wide( scrolls)?"[^>]*>\s*(<svg|<table><thead><tr>.*?</tr>)', html, re.DOTALL)
    assert boxes
    for scrolls, what in boxes:
        assert bool(scrolls) is (what == "<svg" or what.count("<th ") > 4)


def test_a_text_that_a_spreadsheet_takes_for_a_formula_is_made_harmless(tmp_path):
    write_csv(tmp_path / "a.csv", [{"a": "=1+1", "b": "-3.5", "c": "@x", "d": -2, "e": "plain"}])
    assert (tmp_path / "a.csv").read_text(encoding="utf-8").splitlines()[1] == "'=1+1,-3.5,'@x,-2,plain"


def test_an_unreadable_image_is_reported_and_does_not_stop_the_report():
    from cuecard.domain.question import Image

    assert "cannot be shown" in thumbnail(Image(b"no picture")).text
    assert "not kept" in thumbnail(None).text


def test_names_of_files_hold_nothing_that_a_file_system_minds():
    assert file_name("tsv:/data/Ünï code.tsv, mutual/accept=agree+confidence(0.9)") == (
        "tsv-data-n-code-tsv-mutual-accept-agree-confidence-0-9"
    )


def test_differences_are_in_points_with_a_true_minus():
    assert sentences.points(-0.0123) == "−1.2 points"
    assert sentences.points(0.01) == "+1.0 point"
    assert sentences.points(-0.0001) == "0.0 points"
    assert sentences.p_value(0.0004) == "p < 0.001"


@pytest.mark.parametrize(
    ("low", "high", "ends"), [(None, None, "no interval"), (0.5, 0.5, "no spread"), (0.25, 0.75, "25.0 to 75.0")]
)
def test_an_interval_without_two_ends_says_why(low: float | None, high: float | None, ends: str):
    interval = Interval(0.5, low, high, 0.95, "bootstrap")
    assert sentences.between(interval) == ends
    assert sentences.has_spread(interval) is (low == 0.25)


def test_a_table_marks_its_last_row_as_the_sum_and_escapes_its_cells():
    module = environment().get_template("macros.html").module
    shown = module.table([{"a": "<x>", "b": "1"}, {"a": "all", "b": "1"}], total=True)
    assert "&lt;x&gt;" in shown
    assert shown.count('class="total"') == 1


def test_arms_at_the_same_place_share_one_label():
    names = ("mutual", "mutual/overlap", "mutual/eager")
    points = [ScatterPoint(name, "paper", 10.0, 0.9, 0.8, 0.95) for name in names]
    drawn = svg(
        scatter([*points, ScatterPoint("short:large", "large", 1.0, 0.5, 0.4, 0.6)], "tokens"),
        "accuracy against tokens",
    )
    assert "mutual and 2 more" in drawn


def test_one_arm_alone_and_costs_of_nothing_can_be_drawn():
    point = ScatterPoint("a", "small", 0.0, 1.0, 1.0, 1.0)
    assert "<svg" in svg(scatter([point], "x", front=True, may_be_log=True), "accuracy against tokens")


@pytest.mark.parametrize("arms", [("short:large",), ("reason:large",), ("mutual",), ("vote", "cascade")])
def test_a_run_of_few_arms_has_a_page_with_what_there_is(tmp_path, arms):
    text = reported(run_directory(tmp_path / "run", arms=arms)).read_text(encoding="utf-8")
    assert Tags(text).open == []
    assert "Results" in text
