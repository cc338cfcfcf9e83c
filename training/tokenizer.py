"""The embedded pair's tokenizer: byte-level BPE learned from the pair's own texts; any text round-trips."""

from __future__ import annotations

import json
from collections.abc import Iterator
from random import Random

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from cuecard.demo import boards, tasks
from cuecard.demo.boards import CELLS, COLOURS, SIDE
from cuecard.domain.question import AnswerKind, letter
from cuecard.models.prompt import TRAINED
from training import shapes
from training.reasoning import STYLES, solve

IMAGE, VIDEO, IMAGE_START, IMAGE_END = "<|image_pad|>", "<|video_pad|>", "<|vision_start|>", "<|vision_end|>"
END, PAD = "<|im_end|>", "<|endoftext|>"
SPECIAL = (PAD, "<|im_start|>", END, IMAGE_START, IMAGE_END, IMAGE, VIDEO)
THINK = ("<think>", "</think>")
# One token for " cell 7" and for " row 2": a number that names a place is looked up, not computed. Other numbers, and
# the letters of options, are the same token in every place, so that they can be copied: the space before them belongs
# to the preceding word.
_BEFORE_NUMBER = r"(?: (?=\d|[A-F](?!\p{L})))?"
WORDS = (
    r" ?(?:[Cc]ell|[Rr]ow) \d+|\d+|[A-F](?!\p{L})"
    rf"| ?(?![A-F](?!\p{{L}}))\p{{L}}+{_BEFORE_NUMBER}| ?[^\s\p{{L}}\d]+{_BEFORE_NUMBER}"
    r"|\s*\n+|\s+(?!\S)|\s+"
)

CHAT_TEMPLATE = """\
{%- for message in messages %}
    {{- '<|im_start|>' + message.role + '\\n' }}
    {%- if message.content is string %}
        {%- set text = message.content %}
        {%- if message.role == 'assistant' and '</think>' in text %}
            {%- set text = text.split('</think>')[-1].lstrip('\\n') %}
        {%- endif %}
        {{- text }}
    {%- else %}
        {%- for part in message.content %}
            {%- if part.type in ('image', 'image_url') or 'image' in part or 'image_url' in part %}
                {{- '<|vision_start|><|image_pad|><|vision_end|>' }}
            {%- elif 'text' in part %}
                {{- part.text }}
            {%- endif %}
        {%- endfor %}
    {%- endif %}
    {%- if not (loop.last and continue_final_message is defined and continue_final_message) %}
        {{- '<|im_end|>\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}
        {{- '<think>\\n\\n</think>\\n\\n' }}
    {%- endif %}
{%- endif %}
"""


def corpus() -> Iterator[str]:
    """Texts with every word that the pair learns, the rarer ones included."""
    rng = Random(0)
    for task in (*boards.TASKS, *boards.LONG_TASKS) * 300:
        cells = [(rng.choice(COLOURS), rng.randrange(10)) for _ in range(CELLS)]
        made = boards.make_task(rng, cells, task, wander=True)
        yield boards.wording(made)
        yield from (solve(made, cells, style).reasoning for style in STYLES.values())
    scenes = tasks.scenes("train")
    for item in tasks.photo_questions("train")[:4000]:
        yield item.text
        yield item.answer
        if item.image_path in scenes:
            yield from (shapes.solve(item, scenes[item.image_path], style).reasoning for style in STYLES.values())
    for _ in range(5):
        yield from ("Notes of another model, which may be wrong:", "\n\n", "user", "assistant", "system")
        asked = [TRAINED.short(kind) for kind in AnswerKind if kind is not AnswerKind.JSON]  # nothing here is JSON
        yield from (text for each in asked for text in (each, TRAINED.follow_up.format(instruction=each)))
        yield from (*COLOURS, "yes", "no", "Yes", "No")
        yield from (f"cell {n} cell {n} Cell {n} Cell {n}" for n in range(1, CELLS + 1))
        yield from (f"row {n} row {n} Row {n} Row {n}" for n in range(1, SIDE + 1))
        yield from (f"{number} {number}" for number in range(41))
        yield from (f"{letter(index)}. {letter(index)} {letter(index)}" for index in range(6))


def build() -> PreTrainedTokenizerFast:
    """Build the tokenizer, deterministically: every word of the corpus is one token, other text falls into bytes."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(WORDS), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=4096,
        min_frequency=2,
        initial_alphabet=alphabet,
        special_tokens=[*SPECIAL, *THINK],
        show_progress=False,
    )
    tokenizer.train_from_iterator(corpus(), trainer)
    state = json.loads(tokenizer.to_str())
    for added in state["added_tokens"]:
        added["special"] = added["content"] not in THINK  # as Qwen3's own: one token each, but not special
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(state)),
        eos_token=END,
        pad_token=PAD,
        additional_special_tokens=list(SPECIAL[1:]),
        chat_template=CHAT_TEMPLATE,
        model_max_length=4096,
        clean_up_tokenization_spaces=False,
    )
