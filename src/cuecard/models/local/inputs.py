"""From a prompt to token ids and pixels, for checkpoints with and without a processor of their own."""

from __future__ import annotations

import re
from collections import OrderedDict
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from transformers import AutoImageProcessor, AutoProcessor, AutoTokenizer, PretrainedConfig, PreTrainedTokenizerBase
from transformers.models.auto.processing_auto import PROCESSOR_MAPPING

from cuecard.domain.errors import BadInput, Unsupported
from cuecard.domain.question import Image
from cuecard.models.images.images import opened
from cuecard.models.prompt import Prompt, Turn

QWEN = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl", "qwen3_vl_moe")


@dataclass(frozen=True)
class Inputs:
    """A prompt as a model takes it: its ids, where its last image ends, and the tensors that go with the images."""

    ids: list[int]
    images: tuple[str, ...]
    images_end: int
    tensors: dict[str, torch.Tensor]

    def first(self, count: int) -> Inputs:
        """The first `count` tokens; those left out are text."""
        tokens = (1, len(self.ids))
        cut = {name: part[:, :count] if part.shape[:2] == tokens else part for name, part in self.tensors.items()}
        return replace(self, ids=self.ids[:count], tensors=cut)


class PromptReader(Protocol):
    """Turns prompts into inputs."""

    tokenizer: PreTrainedTokenizerBase

    def inputs(self, prompt: Prompt) -> Inputs: ...

    def forget(self) -> None: ...


class TextReader:
    """For language models: text only."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, name: str) -> None:
        self.tokenizer, self._name = tokenizer, name

    def inputs(self, prompt: Prompt) -> Inputs:
        if prompt.images:
            raise Unsupported(f"{self._name} is a language model and cannot see images")
        return Inputs(tokenized(self.tokenizer, render(self.tokenizer, prompt, parts=False)), (), 0, {})

    def forget(self) -> None:
        """Nothing is kept."""


class QwenReader:
    """For Qwen's vision models: each image is processed once, and its placeholder repeated once per merged patch.

    Needs no torchvision, which AutoProcessor does (for videos).
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, image_processor: Any, config: PretrainedConfig) -> None:
        self.tokenizer, self._processor, self._token = tokenizer, image_processor, config.image_token_id
        self._placeholder = tokenizer.convert_ids_to_tokens(self._token)
        self._seen: OrderedDict[str, tuple[torch.Tensor, torch.Tensor]] = OrderedDict()

    def inputs(self, prompt: Prompt) -> Inputs:
        pictures = [self._pixels(image) for image in prompt.images]
        text, *rest = render(self.tokenizer, prompt).split(self._placeholder)
        if len(rest) != len(pictures):
            raise BadInput(f"the prompt has {len(pictures)} images and {len(rest)} places for them")
        merged = self._processor.merge_size**2
        for (_, grid), after in zip(pictures, rest, strict=True):
            text += self._placeholder * (int(grid.prod()) // merged) + after
        ids = tokenized(self.tokenizer, text)
        if not pictures:
            return Inputs(ids, (), 0, {})
        end = len(ids) - ids[::-1].index(self._token)
        tensors = {
            "pixel_values": torch.cat([pixels for pixels, _ in pictures]),
            "image_grid_thw": torch.cat([grid for _, grid in pictures]),
            "mm_token_type_ids": (torch.tensor([ids]) == self._token).int(),
        }
        return Inputs(ids, tuple(image.digest for image in prompt.images), end, tensors)

    def forget(self) -> None:
        """Drop the processed images."""
        self._seen.clear()

    def _pixels(self, image: Image) -> tuple[torch.Tensor, torch.Tensor]:
        """(patches, values) and grid (1, 3) of one image, processed once for all calls about it."""
        if image.digest not in self._seen:
            made = self._processor(images=[opened(image)], return_tensors="pt")
            self._seen[image.digest] = made["pixel_values"], made["image_grid_thw"]
            while len(self._seen) > 16:
                self._seen.popitem(last=False)
        return self._seen[image.digest]


class ProcessorReader:
    """For every other vision model: its own processor lays out text and images."""

    def __init__(self, processor: Any, config: PretrainedConfig) -> None:
        self.processor, self.tokenizer = processor, processor.tokenizer
        self.tokenizer.chat_template = processor.chat_template or self.tokenizer.chat_template
        self._token = getattr(config, "image_token_id", None) or getattr(config, "image_token_index", None)

    def inputs(self, prompt: Prompt) -> Inputs:
        text = render(self.tokenizer, prompt)
        pictures = [opened(image) for image in prompt.images]
        # the rendered text already begins with the special tokens that the template wants
        begins = self.tokenizer.bos_token is not None and text.startswith(self.tokenizer.bos_token)
        made = self.processor(
            text=[text], images=[pictures] if pictures else None, add_special_tokens=not begins, return_tensors="pt"
        )
        ids = made.pop("input_ids")[0].tolist()
        made.pop("attention_mask", None)
        end = 0 if not pictures else len(ids) - (ids[::-1].index(self._token) if self._token in ids else 0)
        return Inputs(ids, tuple(image.digest for image in prompt.images), end, dict(made))

    def forget(self) -> None:
        """Nothing is kept."""


def prompt_reader(source: str, config: PretrainedConfig, revision: str | None, **file: str) -> PromptReader:
    """The reader that fits a checkpoint; `file`: `gguf_file`, where the tokenizer is in one."""
    if not hasattr(config, "vision_config"):
        return TextReader(AutoTokenizer.from_pretrained(source, revision=revision, **file), source)
    if config.model_type in QWEN:
        tokenizer = AutoTokenizer.from_pretrained(source, revision=revision)
        return QwenReader(
            tokenizer, AutoImageProcessor.from_pretrained(source, revision=revision, backend="pil"), config
        )
    try:
        processor = AutoProcessor.from_pretrained(source, revision=revision)
    except ImportError:
        if type(config) not in PROCESSOR_MAPPING:
            raise
        processor = for_stills(PROCESSOR_MAPPING[type(config)]).from_pretrained(source, revision=revision)
    return ProcessorReader(processor, config)


def for_stills(kind: Any) -> Any:
    """A processor class less its part for videos, which needs torchvision."""

    class Stills(kind):
        @classmethod
        def get_attributes(cls) -> list[str]:
            return [name for name in kind.get_attributes() if name != "video_processor"]

        @classmethod
        def _get_arguments_from_pretrained(cls, *args: Any, **settings: Any) -> list[Any]:
            return [*super()._get_arguments_from_pretrained(*args, **settings), None]

    return Stills


def tokenized(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Ids of a rendered prompt, whose template has already put the special tokens in."""
    return tokenizer(text, add_special_tokens=False).input_ids


_THINK_CUE = re.compile(r"<think>\s*(?:</think>\s*)?$")
_CUT = "\ue000cut\ue000"


def messages(turns: tuple[Turn, ...], parts: bool) -> list[dict[str, Any]]:
    """Turns in the form that chat templates take: images first, then the text; or text alone, as language models do."""
    if not parts:
        return [{"role": turn.role, "content": turn.text} for turn in turns]
    return [
        {"role": turn.role, "content": [*({"type": "image"} for _ in turn.images), {"type": "text", "text": turn.text}]}
        for turn in turns
    ]


def render(tokenizer: PreTrainedTokenizerBase, prompt: Prompt, parts: bool = True) -> str:
    """The prompt's text up to the point where the model goes on, one placeholder an image.

    What a template itself puts behind the assistant's cue (an open or empty think block) gives way to the prompt's own
    opening. Of a prompt whose card is still being written, the text ends with the card.
    """
    ends_in_turns = prompt.unfinished and prompt.opening == prompt.style.none
    *before, last = prompt.turns
    turns = (*before, replace(last, text=last.text + _CUT)) if ends_in_turns else prompt.turns
    text = tokenizer.apply_chat_template(messages(turns, parts), tokenize=False, add_generation_prompt=True)
    return text.partition(_CUT)[0] if ends_in_turns else _THINK_CUE.sub("", text) + prompt.opening
