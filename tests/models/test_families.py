"""Checkpoints of other families: prompts laid out by their own processors, and the same decoding as Transformers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import tiny
import torch
import transformers
from hearing import hear
from reference import Reference

from cuecard.domain.errors import ModelRefused, Unsupported
from cuecard.domain.question import AnswerKind, Image, Question
from cuecard.models.base import AnswerDelta, Limits
from cuecard.models.local.model import LocalModel
from cuecard.models.local.transformers_network import ProcessorReader, QwenReader, TextReader, for_stills
from cuecard.models.prompt import CUE, EMBEDDED, PROSE, TAGS, CardFormat, growing, read, reason, short
from cuecard.models.reasoning_events import TokenDecoder

SEEING = ("qwen3_vl", "qwen2_5_vl", "idefics3", "gemma3", "llava")
READING = ("qwen3", "llama")
FORGETFUL = ("gemma3",)
LIMITS = Limits(answer_tokens=16, reasoning_tokens=12)
CARD = "Row 1 shows red, blue, red. So the answer is 2."


def asked(family: str, images: tuple[Image, ...], text: str = "How many red digits are there?") -> Question:
    return Question(text, images if family in SEEING else (), (), AnswerKind.NUMBER)


@pytest.fixture(scope="module")
def references(checkpoints: Callable[[str], Path]) -> Callable[[str], Reference]:
    known: dict[str, Reference] = {}

    def reference(family: str) -> Reference:
        if family not in known:
            known[family] = Reference(checkpoints(family))
        return known[family]

    return reference


@pytest.mark.parametrize("family", [*SEEING, *READING])
@pytest.mark.parametrize("warm", [False, True])
async def test_every_family_says_what_generate_says(
    family: str,
    warm: bool,
    loaded: Callable[[str], LocalModel],
    references: Callable[[str], Reference],
    pictures: tuple[Image, Image],
) -> None:
    model, reference = loaded(family), references(family)
    for images in (pictures[:1], pictures[1:], pictures, ()):
        question = asked(family, images)
        if warm and model.abilities.prefix_sessions:
            for cut in (10, 30):
                await model.warm(growing(question, CARD[:cut], CardFormat.NOTES, TAGS))
                await model.warm(growing(question, CARD[:cut], CardFormat.THINKING, TAGS))
        for prompt in (short(question, TAGS), *(read(question, CARD, form, TAGS) for form in CardFormat)):
            heard, expected = await hear(model, prompt, LIMITS), reference.expected(prompt, LIMITS)
            assert (heard.answer, heard.end.finish_reason) == (expected.answer, expected.finish_reason)
            assert heard.end.usage.completion_tokens == expected.tokens
            if expected.answer_ids:
                each = reference.logprobs(reference.reader.inputs(prompt), expected.before_answer, expected.answer_ids)
                assert heard.end.answer_logprob == pytest.approx(float(each.sum()), abs=1e-3)


@pytest.mark.parametrize("family", SEEING)
async def test_every_family_sees_its_images(
    family: str, loaded: Callable[[str], LocalModel], pictures: tuple[Image, Image]
) -> None:
    model = loaded(family)
    scores = [await model.score(short(asked(family, images), TAGS), "2") for images in (pictures[:1], pictures[1:])]
    assert abs(scores[0] - scores[1]) > 1e-3


@pytest.mark.parametrize("family", [*SEEING, *READING])
async def test_what_was_computed_is_computed_again_only_where_the_cache_forgets(
    family: str, loaded: Callable[[str], LocalModel], pictures: tuple[Image, Image]
) -> None:
    model, question = loaded(family), asked(family, pictures[:1])
    await hear(model, short(question, TAGS), LIMITS)
    again = await hear(model, reason(question, TAGS), LIMITS)
    if family in FORGETFUL:
        assert again.end.usage.cached_tokens == 0
        assert not model.abilities.prefix_sessions
        assert "keeps no prefixes" in model.abilities.notes[0]
    else:
        assert again.computed < 10
        assert model.abilities.prefix_sessions
        assert model.abilities.notes == ()


@pytest.mark.parametrize("family", READING)
async def test_a_language_model_reads_the_question_and_refuses_images(
    family: str, loaded: Callable[[str], LocalModel], pictures: tuple[Image, Image]
) -> None:
    model = loaded(family)
    assert not model.abilities.images
    texts = ["How many red bars are there?", "How many blue bars are there?"]
    scores = [await model.score(short(Question(text), model.abilities.style), "2") for text in texts]
    assert abs(scores[0] - scores[1]) > 1e-3
    with pytest.raises(Unsupported, match="cannot see images"):
        await hear(model, short(Question("How many?", pictures), TAGS), LIMITS)


@pytest.mark.parametrize("family", ["llama", "qwen3_vl"])
@pytest.mark.parametrize(
    "text",
    [
        "two red bars",
        "  three spaces before,  two between",
        "line\n\nline\n",
        "naïve café, 3 × 4 ≥ 12 €",
        "它有两个红色的数字。",
        "👩🏽‍🚀 an emoji of many bytes 🇰🇷",
        "a\ufffdb",
        "",
    ],
)
def test_text_that_is_decoded_token_by_token_is_whole(
    family: str, text: str, references: Callable[[str], Reference]
) -> None:
    """Including spaces at the start of words, and characters of several tokens."""
    tokenizer = references(family).tokenizer
    ids = tokenizer(text, add_special_tokens=False).input_ids
    decoder = TokenDecoder(tokenizer, short(Question("Which?"), TAGS))
    events = [*(event for token in ids for event in decoder.feed(token)), *decoder.rest()]
    streamed = [event.text for event in events if isinstance(event, AnswerDelta)]
    assert "".join(streamed) == tokenizer.decode(ids).strip() == text.strip()
    assert not any(piece.endswith("\ufffd") for piece in streamed[:-1])


def test_a_family_without_think_tags_reasons_in_prose(loaded: Callable[[str], LocalModel]) -> None:
    assert loaded("llama").abilities.style == replace(PROSE, cue=CUE)
    assert loaded("qwen3_vl").abilities.style == EMBEDDED


def test_each_family_has_its_reader(references: Callable[[str], Reference]) -> None:
    kinds = {family: type(references(family).reader) for family in (*SEEING, *READING)}
    assert kinds == {
        **dict.fromkeys(("qwen3_vl", "qwen2_5_vl"), QwenReader),
        **dict.fromkeys(("idefics3", "gemma3", "llava"), ProcessorReader),
        **dict.fromkeys(READING, TextReader),
    }


@pytest.mark.parametrize("count", [1, 2])
def test_qwens_prompts_are_laid_out_as_qwens_own_processor_does(
    count: int, references: Callable[[str], Reference], pictures: tuple[Image, Image]
) -> None:
    """The processor is loaded without its video part, which needs torchvision."""
    reader = references("qwen3_vl").reader
    assert isinstance(reader, QwenReader)
    tokenizer = tiny.words(reader.tokenizer.chat_template, extra_special_tokens={"image_token": "<|image_pad|>"})
    processor = for_stills(transformers.Qwen3VLProcessor)(reader._processor, tokenizer, None)
    prompt = short(Question("How many?", pictures[:count], system="Be brief."), TAGS)
    ours = reader.inputs(prompt)
    text = "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n"
    text += "<|vision_start|><|image_pad|><|vision_end|>" * count + "How many?<|im_end|>\n<|im_start|>assistant\n"
    opened = [transformers.image_utils.load_image(data) for data in saved(pictures[:count])]
    theirs = processor(text=[text + TAGS.none], images=opened, return_tensors="pt")
    assert ours.ids == theirs.pop("input_ids")[0].tolist()
    theirs.pop("attention_mask")
    assert ours.tensors.keys() == theirs.keys()
    assert all(torch.equal(part, theirs[name]) for name, part in ours.tensors.items())
    assert reader.tokenizer.decode(ours.ids[ours.images_end - 1 : ours.images_end + 1]) == "<|image_pad|><|vision_end|>"


def saved(images: tuple[Image, ...]) -> list[str]:
    return [image.data_url for image in images]


def test_a_processor_whose_videos_need_torchvision_is_loaded_for_images(
    checkpoints: Callable[[str], Path], pictures: tuple[Image, Image], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("transformers.models.smolvlm.processing_smolvlm.num2words", str)
    model = LocalModel.load(tiny.idefics3(tmp_path, smolvlm=True))
    prompt = short(Question("How many?", pictures[:1]), TAGS)
    inputs = model._reader.inputs(prompt)
    text = model._reader.tokenizer.decode(inputs.ids)
    assert text.count("<image>") == 5 * 4
    assert "<row_2_col_2>" in text
    assert inputs.tensors["pixel_values"].shape == (1, 5, 3, 32, 32)


def test_a_package_that_a_processor_needs_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("transformers.models.smolvlm.processing_smolvlm.num2words", None)
    with pytest.raises(ModelRefused, match="num2words"):
        LocalModel.load(tiny.idefics3(tmp_path, smolvlm=True))


@pytest.mark.parametrize("family", ["gemma3", "llava", "llama"])
def test_a_prompt_begins_with_one_beginning_whether_its_template_puts_it_there_or_not(
    family: str, references: Callable[[str], Reference], pictures: tuple[Image, Image]
) -> None:
    reference = references(family)
    for images in (pictures[:1], ()):
        ids = reference.reader.inputs(short(asked(family, images), TAGS)).ids
        begin = reference.tokenizer.bos_token_id
        assert (ids[0], ids.count(begin)) == (begin, 1)


def test_a_text_after_a_picture_needs_no_picture_before_it_is_reused(
    references: Callable[[str], Reference], pictures: tuple[Image, Image]
) -> None:
    """`images_end` is the position after the last image token; text from there on needs no image."""
    for family in ("idefics3", "llava"):
        reference = references(family)
        inputs = reference.reader.inputs(short(asked(family, pictures), TAGS))
        image = reference.tokenizer.convert_tokens_to_ids("<image>")
        assert inputs.ids[inputs.images_end - 1] == image
        assert image not in inputs.ids[inputs.images_end :]
