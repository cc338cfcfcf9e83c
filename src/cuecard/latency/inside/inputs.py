"""What models are fed with: images of a given size, prompts of an exact number of tokens, a tokenizer for output."""

from __future__ import annotations

import io
from dataclasses import dataclass
from random import Random
from typing import Any, Protocol

import torch
from PIL import Image as PilImage
from tokenizers import Tokenizer, decoders, models
from transformers import PreTrainedTokenizerFast
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from cuecard.domain.errors import BadInput
from cuecard.domain.question import Image, Question
from cuecard.models.images.images import opened
from cuecard.models.local.inputs import ProcessorReader, PromptReader, QwenReader
from cuecard.models.prompt import TAGS, short

Tensors = dict[str, torch.Tensor]


@dataclass(frozen=True)
class PromptIds:
    """One prompt: its ids, those of the image first, and the picture, as it comes from a user."""

    ids: tuple[int, ...]
    visual: int
    head: int
    """Tokens up to the image's end, its marks included."""
    image: Image | None
    kinds: tuple[str, ...] = ()
    """Names of the tensors that say something of each token."""


class Feed(Protocol):
    """Makes prompts, and tensors of their images."""

    tokenizer: Any

    def prompt(self, image_px: int | None, text_tokens: int) -> PromptIds:
        """An image of that many pixels a side, or none, and so many tokens behind it."""
        ...

    def tensors(self, prompt: PromptIds) -> Tensors:
        """From the picture as it comes to what the model takes: what is timed as `preprocess`."""
        ...


class TextFeed:
    """For language models."""

    def __init__(self, tokenizer: Any, vocabulary: int) -> None:
        self.tokenizer, self._vocabulary = tokenizer, vocabulary

    def prompt(self, image_px: int | None, text_tokens: int) -> PromptIds:
        if image_px is not None:
            raise BadInput("a language model has no images", "give --image-size 0")
        return PromptIds(_filling(self.tokenizer, self._vocabulary, text_tokens), 0, 0, None)

    def tensors(self, prompt: PromptIds) -> Tensors:
        return {}


class QwenFeed:
    """For Qwen's vision models: an image has the size that it is asked to have, up to whole visual tokens."""

    def __init__(self, tokenizer: Any, processor: Any, config: Any) -> None:
        self.tokenizer, self._processor, self._config = tokenizer, processor, config

    def prompt(self, image_px: int | None, text_tokens: int) -> PromptIds:
        config = self._config
        filling = _filling(self.tokenizer, config.get_text_config().vocab_size, text_tokens, _marks(config))
        if image_px is None:
            return PromptIds(filling, 0, 0, None)
        image = picture(image_px)
        visual = int(self._made(image)["image_grid_thw"].prod()) // self._processor.merge_size**2
        head = (config.vision_start_token_id, *[config.image_token_id] * visual, config.vision_end_token_id)
        return PromptIds((*head, *filling), visual, len(head), image, ("mm_token_type_ids",))

    def tensors(self, prompt: PromptIds) -> Tensors:
        if prompt.image is None:
            return {}
        made = self._made(prompt.image)
        kinds = (torch.tensor([prompt.ids]) == self._config.image_token_id).int()
        return {**made, "mm_token_type_ids": kinds}

    def _made(self, image: Image) -> Tensors:
        opened_image = opened(image)
        pixels = opened_image.width * opened_image.height
        # by itself a checkpoint's processor may see all images at one size, as the embedded pair does
        self._processor.size = {"shortest_edge": pixels, "longest_edge": pixels}
        return dict(self._processor(images=[opened_image], return_tensors="pt"))


class ReaderFeed:
    """For other vision models: their own processor makes the prompt's head, the image's size is theirs to change."""

    def __init__(self, reader: PromptReader, config: Any) -> None:
        self.tokenizer, self._reader, self._config = reader.tokenizer, reader, config

    def prompt(self, image_px: int | None, text_tokens: int) -> PromptIds:
        vocabulary, marks = self._config.get_text_config().vocab_size, _marks(self._config)
        filling = _filling(self.tokenizer, vocabulary, text_tokens, marks)
        if image_px is None:
            return PromptIds(filling, 0, 0, None)
        image = picture(image_px)
        made = self._reader.inputs(self._asked(image))
        kinds = tuple(name for name, part in made.tensors.items() if part.shape[:2] == (1, len(made.ids)))
        return PromptIds((*made.ids, *filling), sum(i in marks for i in made.ids), len(made.ids), image, kinds)

    def tensors(self, prompt: PromptIds) -> Tensors:
        if prompt.image is None:
            return {}
        self._reader.forget()
        made = self._reader.inputs(self._asked(prompt.image)).tensors
        missing = len(prompt.ids) - prompt.head
        return {
            name: torch.nn.functional.pad(part, (0, missing)) if name in prompt.kinds else part
            for name, part in made.items()
        }

    def _asked(self, image: Image) -> Any:
        return short(Question("What is this?", (image,)), TAGS)


def of_reader(reader: PromptReader, config: Any) -> Feed:
    """The feed of a checkpoint."""
    match reader:
        case QwenReader():
            return QwenFeed(reader.tokenizer, reader._processor, config)
        case ProcessorReader():
            return ReaderFeed(reader, config)
        case _:
            return TextFeed(reader.tokenizer, config.get_text_config().vocab_size)


def made_up(config: Any) -> Feed:
    """The feed of random weights: Qwen's image processor, and a tokenizer of made-up words."""
    text = config.get_text_config()
    tokenizer = _words(text.vocab_size)
    if not hasattr(config, "vision_config"):
        return TextFeed(tokenizer, text.vocab_size)
    if "qwen" not in config.model_type:
        raise BadInput(f"random weights are made for Qwen's vision models, not for {config.model_type}")
    eye = config.vision_config
    processor = Qwen2VLImageProcessorPil(
        patch_size=eye.patch_size,
        merge_size=eye.spatial_merge_size,
        temporal_patch_size=eye.temporal_patch_size,
        image_mean=[0.5] * 3,
        image_std=[0.5] * 3,
    )
    return QwenFeed(tokenizer, processor, config)


def _words(count: int) -> PreTrainedTokenizerFast:
    """As many words as a vocabulary has, none of them meaning anything."""
    made = Tokenizer(models.WordLevel({f" w{number}": number for number in range(count)}, unk_token=" w0"))
    made.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(tokenizer_object=made)


def _marks(config: Any) -> set[int]:
    names = ("image_token_id", "video_token_id", "vision_start_token_id", "vision_end_token_id", "image_token_index")
    return {found for name in names if (found := getattr(config, name, None)) is not None}


def _filling(tokenizer: Any, vocabulary: int, count: int, marks: set[int] | None = None) -> tuple[int, ...]:
    """Ids of words, drawn by chance, the same ones each time."""
    special = {*(marks or ()), *getattr(tokenizer, "all_special_ids", ())}
    chance, found = Random(count), list[int]()
    while len(found) < count:
        drawn = chance.randrange(vocabulary)
        if drawn not in special:
            found.append(drawn)
    return tuple(found)


def picture(px: int) -> Image:
    """A square PNG: a gradient with patches on it, as hard to decode as a diagram."""
    base = PilImage.linear_gradient("L").resize((px, px))
    made = PilImage.merge("RGB", (base, base.rotate(90), base.rotate(180)))
    chance = Random(px)
    for _ in range(40):
        left, top = chance.randrange(px), chance.randrange(px)
        colour = tuple(chance.randrange(256) for _ in range(3))
        made.paste(colour, (left, top, min(px, left + px // 8 + 1), min(px, top + px // 8 + 1)))
    out = io.BytesIO()
    made.save(out, "PNG")
    return Image(out.getvalue())
