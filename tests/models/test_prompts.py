"""Prompts: one shared prefix per question, cards in three formats, and no control tokens from texts."""

from __future__ import annotations

import copy
import json
import os
from dataclasses import replace
from functools import cache
from itertools import takewhile
from pathlib import Path

import pytest
import tiny
from hypothesis import given, settings
from hypothesis import strategies as st
from templates import FAMILIES
from transformers import PreTrainedTokenizerFast

from cuecard.domain.call import Mode
from cuecard.domain.question import AnswerKind, Calling, Image, Message, Question
from cuecard.models.local.network import render, tokenized
from cuecard.models.prompt import (
    EMBEDDED,
    PROSE,
    TAGS,
    CardFormat,
    Prompt,
    Style,
    growing,
    neutral,
    read,
    reason,
    short,
)

SNAPSHOTS = Path(__file__).with_name("prompts.json")
STYLES = {"tags": TAGS, "prose": PROSE, "embedded": EMBEDDED}
CARD = "Row 1 shows red (1) and blue.\n\nSo the answer is 2."


def asked(kind: AnswerKind = AnswerKind.NUMBER, **changes: object) -> Question:
    options = ("red", "blue") if kind is AnswerKind.CHOICE else ()
    return Question(**{"text": "How many?", "images": (Image(b"one"),), "options": options, "kind": kind, **changes})


def every_prompt(question: Question, card: str, style: Style) -> dict[str, Prompt]:
    cards = {f"read {form}": read(question, card, form, style) for form in CardFormat}
    return {"short": short(question, style), "reason": reason(question, style), **cards}


# --- layouts ----------------------------------------------------------------------------------------------------------


def rendered() -> dict[str, str]:
    texts = {}
    for name, style in STYLES.items():
        for kind in AnswerKind:
            for mode, prompt in every_prompt(asked(kind), CARD, style).items():
                texts[f"{name}, {kind}, {mode}"] = render(tiny.demo_tokenizer(), prompt)
    full = asked(system="Be brief.", images=(Image(b"one"), Image(b"two")))
    later = replace(full, history=(Message("user", "What is this?", (Image(b"zero"),)), Message("assistant", "Dots.")))
    for name, question in ("system and two images", full), ("a conversation", later):
        for mode, prompt in every_prompt(question, CARD, TAGS).items():
            texts[f"tags, {name}, {mode}"] = render(tiny.demo_tokenizer(), prompt)
    for form in CardFormat:
        texts[f"tags, growing {form}"] = render(tiny.demo_tokenizer(), growing(asked(), CARD, form, TAGS))
    return texts


def test_prompts_are_what_they_were() -> None:
    """Models are trained on these prompts, and recordings have them as keys. `UPDATE=1 pytest …` rewrites the file."""
    if os.environ.get("UPDATE"):
        SNAPSHOTS.write_text(json.dumps(rendered(), indent=1, ensure_ascii=False) + "\n")
    assert rendered() == json.loads(SNAPSHOTS.read_text())


def test_every_answer_kind_has_an_instruction_and_the_mode_says_what_is_wanted() -> None:
    for style in STYLES.values():
        words = style.words
        for form in (*(kind for kind in AnswerKind if kind is not AnswerKind.FREE_TEXT), *Calling):
            assert all((words.short(form), words.reason(form), words.read(form)))
    modes = {name: prompt.mode for name, prompt in every_prompt(asked(), CARD, TAGS).items()}
    assert modes == {"short": Mode.SHORT, "reason": Mode.REASON, **{f"read {form}": Mode.READ for form in CardFormat}}


def test_a_second_stage_goes_on_from_what_was_thought() -> None:
    first = reason(asked(), TAGS)
    second = first.closed_after("Two red. </think> Three ")
    assert second.opening == "<think>\nTwo red. < /think> Three\n</think>\n\n"
    assert (second.turns, second.mode) == (first.turns, Mode.READ)


texts = st.text(
    st.one_of(
        st.sampled_from("<>|[]/_ ｜▁\n\t\r"),
        st.characters(codec="utf-8", exclude_characters="\ue000"),
        st.sampled_from("thinkimendINST"),
    ),
    max_size=60,
)
some_text = texts.filter(str.strip)


@given(
    some_text, st.lists(texts, min_size=2, max_size=4), st.none() | some_text, texts, st.sampled_from(sorted(STYLES))
)
@settings(max_examples=150, deadline=None)
def test_all_prompts_about_a_question_share_everything_up_to_its_last_option(
    text: str, options: list[str], system: str | None, card: str, style: str
) -> None:
    question = Question(text, (Image(b"one"),), tuple(options), AnswerKind.CHOICE, system)
    rendered = [
        render(tiny.demo_tokenizer(), prompt) for prompt in every_prompt(question, card, STYLES[style]).values()
    ]
    shared = "".join(
        column[0] for column in takewhile(lambda column: len(set(column)) == 1, zip(*rendered, strict=False))
    )
    assert neutral(text).strip() in shared
    for option in options:
        assert f". {neutral(option)}" in shared
    if system is not None:
        assert neutral(system) in shared


@given(some_text, texts, st.sampled_from(list(CardFormat)), st.sampled_from(sorted(STYLES)))
@settings(max_examples=150, deadline=None)
def test_a_growing_card_is_the_beginning_of_what_will_be_read_at_every_cut(
    text: str, card: str, form: CardFormat, style: str
) -> None:
    question, tokenizer = Question(text, (Image(b"one"),)), tiny.demo_tokenizer()
    whole = render(tokenizer, read(question, card, form, STYLES[style]))
    for cut in range(len(card) + 1):
        part = render(tokenizer, growing(question, card[:cut], form, STYLES[style]))
        assert whole.startswith(part)


@pytest.mark.parametrize("form", CardFormat)
@pytest.mark.parametrize(
    "card", ["s", "a", "user", "How many?", "Answer with the number only.", "<", "2 < 3 and 4 > 3"]
)
def test_a_growing_card_ends_where_the_card_does_however_often_its_text_occurs(form: CardFormat, card: str) -> None:
    question, tokenizer = asked(), tiny.demo_tokenizer()
    part = render(tokenizer, growing(question, card + " And", form, TAGS))
    assert render(tokenizer, read(question, card + " And so on.", form, TAGS)).startswith(part)
    if "<" not in card:
        assert part.endswith(card + " And")


@pytest.mark.parametrize("form", CardFormat)
def test_a_growing_card_keeps_up_with_the_card_but_for_what_may_become_a_token(form: CardFormat) -> None:
    def end(card: str) -> str:
        return render(tiny.demo_tokenizer(), growing(asked(), card, form, TAGS))

    assert end("It is red").endswith("It is red")
    assert end("It is red <").endswith("It is red")
    assert end("It is red <|im_e").endswith("It is red")
    assert end("It is red <b>bold</b>").endswith("<b>bold</b>")
    assert end("2 < 3" + " and so on" * 10).endswith("and so on")


# --- control tokens ---------------------------------------------------------------------------------------------------

TOKENS = {
    "Qwen": """
        <|im_start|> <|im_end|> <|endoftext|> <|vision_start|> <|vision_end|> <|vision_pad|> <|image_pad|>
        <|video_pad|> <|object_ref_start|> <|box_start|> <|quad_end|> <|fim_prefix|> <|repo_name|> <tool_call>
        </tool_call> <tool_response> <think> </think> <tts_pad> <tts_text_bos>
    """,
    "Llama": """
        <|begin_of_text|> <|end_of_text|> <|start_header_id|> <|end_header_id|> <|eot_id|> <|eom_id|>
        <|python_tag|> <|image|> <|finetune_right_pad_id|> <|reserved_special_token_0|> <|header_start|> <|eot|>
        <|patch|> <|tile_x_separator|> <s> </s> <unk> [INST] [/INST] <<SYS>> <</SYS>>
    """,
    "Gemma": """
        <bos> <eos> <pad> <mask> <start_of_turn> <end_of_turn> <start_of_image> <end_of_image>
        <image_soft_token> <audio_soft_token> <unused0> <unused99> <|turn> <turn|> <|channel> <channel|>
        <|image> <image|> <|think|> <|tool_call> <tool_call|> <loc0001> <seg012>
    """,
    "DeepSeek": """
        <｜begin▁of▁sentence｜> <｜end▁of▁sentence｜> <｜User｜> <｜Assistant｜> <｜tool▁calls▁begin｜> <｜fim▁hole｜>
        <|EOT|> <image_placeholder> <begin_of_image> <|grounding|> <|ref|>
    """,
    "Mistral": """
        [SYSTEM_PROMPT] [/SYSTEM_PROMPT] [TOOL_CALLS] [AVAILABLE_TOOLS] [/AVAILABLE_TOOLS] [TOOL_RESULTS]
        [TOOL_CONTENT] [ARGS] [CALL_ID] [IMG] [IMG_BREAK] [IMG_END] [PREFIX] [SUFFIX] [MIDDLE] [THINK] [/THINK]
        [AUDIO] [BEGIN_AUDIO] [control_8] <SPECIAL_20>
    """,
    "Phi": """
        <|user|> <|assistant|> <|system|> <|end|> <|image_1|> <|im_sep|> <|tool|> <|endofprompt|> <|dummy_0|>
    """,
    "LLaVA and InternVL": """
        <image> <video> <img> </img> <IMG_CONTEXT> <quad> </quad> <ref> </ref> <box> </box> <im_start> <im_end>
        <im_patch> <|action_start|> [UNUSED_TOKEN_146]
    """,
    "Idefics": """
        <fake_token_around_image> <end_of_utterance> <global-img> <row_1_col_1> <row_10_col_12> <|reserved|>
    """,
    "others": """
        [gMASK] <sop> <eop> <|observation|> <|begin_of_box|> <arg_key> </arg_value> ◁think▷ ◁/think▷ [BOS] [EOS]
        [EOT] [PAD] [UNK] [CLS] [SEP] [MASK] <BOS_TOKEN> <|START_OF_TURN_TOKEN|> <|start_of_role|> [|system|]
        [|endofturn|] <seed:think> </seed:think> <extra_id_0> <image_id> <slice> <answer> <mask:0> <eoa> <sep>
        <cls>
    """,
}
CONTROL = sorted({token for line in TOKENS.values() for token in line.split()})


@cache
def strict_tokenizer() -> PreTrainedTokenizerFast:
    """A tokenizer with the control tokens of all families as special tokens."""
    made = copy.deepcopy(tiny.demo_tokenizer())
    made.add_special_tokens({"additional_special_tokens": CONTROL}, replace_extra_special_tokens=False)
    return made


@cache
def marks_of(tokenizer: PreTrainedTokenizerFast) -> frozenset[int]:
    return frozenset(tokenizer.added_tokens_decoder)


def smuggled(text: str, tokenizer: PreTrainedTokenizerFast) -> list[str]:
    ids = tokenized(tokenizer, text)
    return tokenizer.convert_ids_to_tokens([token for token in ids if token in marks_of(tokenizer)])


def test_the_table_is_long_and_its_tokens_are_tokens() -> None:
    assert len(CONTROL) > 100
    assert all(smuggled(f"a{token}b", strict_tokenizer()) == [token] for token in CONTROL)


@pytest.mark.parametrize("tokenizer", [tiny.demo_tokenizer, strict_tokenizer])
@pytest.mark.parametrize("token", CONTROL)
def test_no_text_brings_a_control_token_in(token: str, tokenizer: object) -> None:
    attempts = [token, f"a{token}b", f"<{token}", f"[{token}>", f"<|{token}|>", f"{token}{token}", f" {token}\n{token}"]
    if "|" not in token:
        attempts += [token.upper(), token.lower()]
    made = tokenizer()
    for attempt in attempts:
        plain, bait = asked(AnswerKind.CHOICE, system="x"), f"x{attempt}x"
        questions = [
            asked(AnswerKind.CHOICE, text=bait, system="x"),
            asked(AnswerKind.CHOICE, options=(bait, bait), system="x"),
            asked(AnswerKind.CHOICE, system=bait),
        ]
        due = {name: smuggled(render(made, prompt), made) for name, prompt in every_prompt(plain, "x", TAGS).items()}
        for question in questions:
            for name, prompt in every_prompt(question, bait, TAGS).items():
                assert smuggled(render(made, prompt), made) == due[name], (name, attempt)


@pytest.mark.parametrize("family", FAMILIES)
def test_no_text_opens_a_turn_or_is_lost_in_the_template_of_another_family(family: str) -> None:
    """Templates also drop text before a `</think>` in an earlier turn, unless the tag is broken up."""
    made = copy.deepcopy(strict_tokenizer())
    made.chat_template = FAMILIES[family]

    def laid_out(text: str) -> dict[str, str]:
        question = asked(text=text, images=(), system=text, history=(Message("user", text), Message("assistant", text)))
        whole = every_prompt(question, text, TAGS)
        parts = {f"growing {form}": growing(question, text, form, TAGS) for form in CardFormat}
        return {name: render(made, prompt, parts=False) for name, prompt in (whole | parts).items()}

    plain = laid_out("It is red")
    due = {name: smuggled(text, made) for name, text in plain.items()}
    assert min(map(len, due.values())) >= 4
    for token in CONTROL:
        for name, text in laid_out(f"It is {token} red").items():
            assert smuggled(text, made) == due[name], (token, name)
            assert text.count("red") == plain[name].count("red"), (token, name)


@given(texts, st.lists(st.sampled_from(CONTROL), max_size=4), texts)
@settings(max_examples=300, deadline=None)
def test_neutral_text_holds_no_control_token_and_stays_as_it_is(before: str, tokens: list[str], after: str) -> None:
    text = before + "".join(tokens) + after
    once = neutral(text)
    assert smuggled(once, strict_tokenizer()) == []
    assert neutral(once) == once
    assert once.replace(" ", "") == text.replace(" ", "")


@pytest.mark.parametrize("token", CONTROL)
def test_a_control_token_stays_readable(token: str) -> None:
    assert neutral(token) in {f"{token[0]} {token[1:]}", f"{token[:2]} {token[2:]}"}


@pytest.mark.parametrize(
    "text",
    [
        "a < b and c > d",
        "x<y>z",
        "<b>bold</b>, <i>slanted</i>, <h1>, <table>, <tr>, <br/>",
        "List<int> and Map<String, List<T>>",
        "a[i] + b[INDEX], [1], [A], [USA], [TODO]",
        "if (a<b || c>d) { x |= y; }",
        "5 <= x, y >= 6, z <- 7, <-->",
        "an e-mail to <someone@example.org>",
        "$\\langle x | y \\rangle$ and |x|",
        "我认为 < 是小于号",
        "",
    ],
)
def test_ordinary_text_is_left_alone(text: str) -> None:
    assert neutral(text) == text


@pytest.mark.parametrize(
    ("text", "neutralised"), [("x<|y", "x< |y"), ("vector<size_t>", "vector< size_t>"), ("[img]", "[ img]")]
)
def test_ordinary_text_that_looks_like_control_gains_one_space(text: str, neutralised: str) -> None:
    assert neutral(text) == neutralised


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    "text", ["<" * 100_000, "<a_" * 50_000, "<" + "_" * 200_000, "<think" + " " * 200_000, "[" * 99_999]
)
def test_long_nonsense_takes_no_long_time(text: str) -> None:
    assert len(neutral(text)) >= len(text)
    growing(asked(), text, CardFormat.NOTES, TAGS)
