"""The page stands alone, and what models and users wrote stays text."""

from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser

from stock import CALLS, OUTCOME, QUESTION, showcase

from cuecard.domain.question import Image
from cuecard.report.showcase.report import page

EVIL = '<script>alert("1")</script><img src=x onerror=alert(2)>'


class Tags(HTMLParser):
    """Every element of a page with its attributes."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


def test_a_script_in_an_answer_a_reasoning_or_a_question_stays_text() -> None:
    calls = tuple(replace(c, answer=EVIL, reasoning=EVIL if c.reasoning else None, model=EVIL) for c in CALLS)
    outcome = replace(OUTCOME, answer=EVIL, reason=EVIL, calls=calls)
    question = replace(QUESTION, text=EVIL, options=(EVIL, "b"), images=(Image(b"x", 'image/png" onload="x'),))
    html = page(replace(showcase(outcome, question, EVIL), about=((EVIL, EVIL),)))
    elements = Tags(html).found
    assert not [tag for tag, _ in elements if tag in ("script", "img", "iframe", "object")]
    assert not [name for _, attributes in elements for name in attributes if name.startswith("on")]
    assert "&lt;script&gt;" in html


def test_the_page_refers_to_nothing_outside_itself() -> None:
    html = page(showcase())
    for _, attributes in Tags(html).found:
        for name in ("src", "href", "xlink:href", "action", "data"):
            assert (attributes.get(name) or "#").startswith(("#", "data:"))
    assert not re.search(r"url\((?!#)|@import", html)


def test_the_page_names_the_origin_of_its_latencies() -> None:
    assert "measured (timed live in this run)" in page(showcase())


def test_the_page_opens_with_the_result_in_one_sentence() -> None:
    html = page(showcase())
    lead = html[html.index('<p class="lead">') : html.index("</header>")]
    assert "mutual verification (overlap) was right 9 times (90%) in 200 ms" in lead
    assert "1.80 times the speed" in lead


def test_the_first_screen_compares_the_pair_with_the_best_single_model_that_takes_no_longer() -> None:
    first = page(showcase()).split("<nav")[0]
    assert "More right answers" in first
    assert "mutual, overlap: 9 of 10 right (60%–98%); short:large, the most accurate" in first
    assert "95% intervals" in first


def test_the_contents_link_to_every_section_and_terms_are_explained() -> None:
    html = page(showcase())
    contents = html.split("<nav")[1].split("</nav>")[0]
    assert re.findall(r'href="#([^"]+)"', contents) == re.findall(r'<h2 id="([^"]+)"', html)
    assert "<dt>hand-off</dt>" in html
    assert "<dt>sparsity</dt>" not in html


def test_the_gallery_shows_both_short_answers_the_reasoning_and_the_route() -> None:
    html = page(showcase())
    assert "small “3”, large “3”" in html
    assert "Now cell 7 shows a red 3." in html
    assert "<strong>transferred</strong>: the large model read" in html
    assert 'src="data:image/png;base64,' in html


def test_a_run_in_which_nothing_was_transferred_has_a_page_without_time_lines() -> None:
    assert "call by call" not in page(replace(showcase(), sample=None))
