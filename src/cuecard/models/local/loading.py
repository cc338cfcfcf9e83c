"""Loads a Transformers checkpoint and its prompt reader from a directory, a GGUF file or a repository of the hub."""

from __future__ import annotations

from collections import OrderedDict
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import HfApi, try_to_load_from_cache
from huggingface_hub.errors import HfHubHTTPError
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoProcessor,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.models.auto.processing_auto import PROCESSOR_MAPPING
from transformers.utils import logging

from cuecard.domain.errors import BadInput, MissingExtra, Unsupported
from cuecard.domain.question import Image
from cuecard.models.images.images import opened
from cuecard.models.local.engine import first_line, lacking, refusing
from cuecard.models.local.inputs import IMAGES_KEPT, Inputs, PromptReader, render, tokenized, with_places
from cuecard.models.prompt import Prompt

DTYPES = ("float32", "bfloat16", "float16")
GGUF_PACKAGES = ("gguf", "accelerate")
HUB_S = 10
QWEN = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl", "qwen3_vl_moe")


def load(
    source: str, device: str | None, dtype: str | None, revision: str | None
) -> tuple[PreTrainedModel, PromptReader]:
    """The model, and the reader of its prompts.

    Raises BadInput without a checkpoint, ModelRefused if it is broken, MissingExtra if no package reads a GGUF file.
    """
    if dtype is not None and dtype not in DTYPES:
        raise BadInput(f"unknown dtype {dtype!r}", f"there are: {', '.join(DTYPES)}")
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    device = device or best_device()
    place, file = source, {}
    if source.endswith(".gguf"):
        _find_gguf(source)
        place, file = str(Path(source).parent), {"gguf_file": Path(source).name}
    elif not Path(source).is_dir():
        find_hub(source, revision)
    try:
        config = AutoConfig.from_pretrained(place, revision=revision, **file)
    except Exception as error:  # a broken configuration fails in many ways
        if file:
            raise BadInput(
                f"{source} cannot be read: {first_line(error)}",
                "Transformers reads GGUF files of some architectures; llama.cpp's server reads all: http://HOST:PORT/v1#NAME",
            ) from error
        raise BadInput(
            f"no checkpoint at {source!r}: {first_line(error)}",
            "give a directory in the Hugging Face layout, or hf:ORG/NAME",
        ) from error
    auto = AutoModelForImageTextToText if hasattr(config, "vision_config") else AutoModelForCausalLM
    # a CPU computes fastest in float32; an accelerator in the type that the checkpoint was saved in
    chosen = getattr(torch, dtype) if dtype else torch.float32 if device == "cpu" else "auto"
    with refusing(source):
        model, found = auto.from_pretrained(place, revision=revision, dtype=chosen, output_loading_info=True, **file)
        if missing := list(found["missing_keys"]):  # they would be random
            raise lacking(source, missing)
        return model.to(device).eval(), prompt_reader(place, config, revision, **file)


def _find_gguf(source: str) -> None:
    """Raises BadInput without the file, MissingExtra without the packages that Transformers needs to read it."""
    if not Path(source).is_file():
        raise BadInput(f"there is no file {source}", "give a GGUF file, a directory, or hf:ORG/NAME")
    if missing := [name for name in GGUF_PACKAGES if find_spec(name) is None]:
        raise MissingExtra(
            f"{Path(source).name} is a GGUF file, which needs {' and '.join(missing)}",
            "pip install '.[local]' in a checkout",
        )


def find_hub(source: str, revision: str | None) -> None:
    """Raises BadInput if nothing is cached and the hub does not answer: Transformers would retry for half a minute."""
    if isinstance(try_to_load_from_cache(source, "config.json", revision=revision), str):
        return
    try:
        HfApi().model_info(source, revision=revision, timeout=HUB_S)
    except HfHubHTTPError:
        return  # the hub answers; Transformers has a better error for a wrong name
    except Exception as error:
        raise BadInput(
            f"cannot ask the Hugging Face hub for {source}: {first_line(error)}",
            "is there a network? A directory needs none",
        ) from error


def best_device() -> str:
    return "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"


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

    Needs no torchvision, unlike AutoProcessor (for videos).
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, image_processor: Any, config: PretrainedConfig) -> None:
        self.tokenizer, self._processor, self._token = tokenizer, image_processor, config.image_token_id
        self._placeholder = tokenizer.convert_ids_to_tokens(self._token)
        self._seen: OrderedDict[str, tuple[torch.Tensor, torch.Tensor]] = OrderedDict()

    def inputs(self, prompt: Prompt) -> Inputs:
        pictures = [self._pixels(image) for image in prompt.images]
        merged = self._processor.merge_size**2
        text = with_places(
            render(self.tokenizer, prompt), self._placeholder, [int(grid.prod()) // merged for _, grid in pictures]
        )
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
            while len(self._seen) > IMAGES_KEPT:
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
    """The prompt reader of a checkpoint; `file`: `gguf_file`, if the tokenizer is in such a file."""
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
    """A processor class without its part for videos, which needs torchvision."""

    class Stills(kind):
        @classmethod
        def get_attributes(cls) -> list[str]:
            return [name for name in kind.get_attributes() if name != "video_processor"]

        @classmethod
        def _get_arguments_from_pretrained(cls, *args: Any, **settings: Any) -> list[Any]:
            return [*super()._get_arguments_from_pretrained(*args, **settings), None]

    return Stills
