"""The models to time (a checkpoint, or random weights in published dimensions, whole or a slice), and their inputs.

Inputs are images of a given size and prompts of an exact number of tokens; a tokenizer decodes the output.
"""

from __future__ import annotations

import copy
import io
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import Any

import torch
from PIL import Image as PilImage
from tokenizers import Tokenizer, decoders, models
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText, PreTrainedTokenizerFast
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from cuecard.domain.errors import BadInput, CuecardError, one_line
from cuecard.domain.question import Image, Question
from cuecard.latency.roofline import PRESETS, Dimensions, dimensions_of, unknown_preset
from cuecard.models import spec
from cuecard.models.images.images import opened
from cuecard.models.local import transformers_network
from cuecard.models.local.network import PromptReader
from cuecard.models.local.transformers_network import ProcessorReader, QwenReader
from cuecard.models.prompt import TAGS, Prompt, short

Tensors = dict[str, torch.Tensor]
IMAGE_MARKS = (
    "image_token_id", "video_token_id", "vision_start_token_id", "vision_end_token_id", "image_token_index"
)  # fmt: skip


@dataclass(frozen=True)
class PromptIds:
    """One prompt: its ids, those of the image first, and the encoded picture."""

    ids: tuple[int, ...]
    visual: int
    head: int
    """Tokens up to the image's end, its marks included."""
    image: Image | None
    kinds: tuple[str, ...] = ()
    """Names of the tensors with one value per token."""


class Feed:
    """Makes prompts and the tensors of their images; this class is for language models."""

    def __init__(self, tokenizer: Any, config: Any) -> None:
        self.tokenizer, self._config = tokenizer, config
        self._marks = {mark for name in IMAGE_MARKS if (mark := getattr(config, name, None)) is not None}

    def prompt(self, image_px: int | None, text_tokens: int) -> PromptIds:
        """An image of `image_px` pixels a side, or none, and `text_tokens` tokens after it, the same ones each time."""
        special = {*self._marks, *getattr(self.tokenizer, "all_special_ids", ())}
        vocabulary, chance, filling = self._config.get_text_config().vocab_size, Random(text_tokens), list[int]()
        while len(filling) < text_tokens:
            drawn = chance.randrange(vocabulary)
            if drawn not in special:
                filling.append(drawn)
        return PromptIds(tuple(filling), 0, 0, None) if image_px is None else self._seeing(picture(image_px), filling)

    def tensors(self, prompt: PromptIds) -> Tensors:
        """From the encoded picture to the model's inputs: timed as `preprocess`."""
        return {} if prompt.image is None else self._pixels(prompt, prompt.image)

    def _seeing(self, image: Image, filling: Sequence[int]) -> PromptIds:
        raise BadInput("a language model has no images", "give --image-size 0")

    def _pixels(self, prompt: PromptIds, image: Image) -> Tensors:
        raise NotImplementedError


class QwenFeed(Feed):
    """For Qwen's vision models: images keep the requested size, rounded to whole visual tokens."""

    def __init__(self, tokenizer: Any, config: Any, processor: Any) -> None:
        super().__init__(tokenizer, config)
        self._processor = processor

    def _seeing(self, image: Image, filling: Sequence[int]) -> PromptIds:
        config = self._config
        visual = int(self._processed(image)["image_grid_thw"].prod()) // self._processor.merge_size**2
        head = (config.vision_start_token_id, *[config.image_token_id] * visual, config.vision_end_token_id)
        return PromptIds((*head, *filling), visual, len(head), image, ("mm_token_type_ids",))

    def _pixels(self, prompt: PromptIds, image: Image) -> Tensors:
        kinds = (torch.tensor([prompt.ids]) == self._config.image_token_id).int()
        return {**self._processed(image), "mm_token_type_ids": kinds}

    def _processed(self, image: Image) -> Tensors:
        opened_image = opened(image)
        pixels = opened_image.width * opened_image.height
        # the default of a checkpoint's processor may resize all images to one size, as in the embedded pair
        self._processor.size = {"shortest_edge": pixels, "longest_edge": pixels}
        return dict(self._processor(images=[opened_image], return_tensors="pt"))


class ReaderFeed(Feed):
    """For other vision models: their own processor makes the start of the prompt, and may resize the image."""

    def __init__(self, reader: PromptReader, config: Any) -> None:
        super().__init__(reader.tokenizer, config)
        self._reader = reader

    def _seeing(self, image: Image, filling: Sequence[int]) -> PromptIds:
        head = self._reader.inputs(_question(image))
        kinds = tuple(name for name, part in head.tensors.items() if part.shape[:2] == (1, len(head.ids)))
        visual = sum(each in self._marks for each in head.ids)
        return PromptIds((*head.ids, *filling), visual, len(head.ids), image, kinds)

    def _pixels(self, prompt: PromptIds, image: Image) -> Tensors:
        self._reader.forget()
        missing = len(prompt.ids) - prompt.head
        return {
            name: torch.nn.functional.pad(part, (0, missing)) if name in prompt.kinds else part
            for name, part in self._reader.inputs(_question(image)).tensors.items()
        }


def _question(image: Image) -> Prompt:
    return short(Question("What is this?", (image,)), TAGS)


def made_up(config: Any) -> Feed:
    """The feed of random weights: Qwen's image processor, and a tokenizer with a synthetic vocabulary of full size."""
    words = Tokenizer(
        models.WordLevel({f" w{id}": id for id in range(config.get_text_config().vocab_size)}, unk_token=" w0")
    )
    words.decoder = decoders.Fuse()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words)
    if not hasattr(config, "vision_config"):
        return Feed(tokenizer, config)
    if "qwen" not in config.model_type:
        raise BadInput(f"random weights are made for Qwen's vision models, not for {config.model_type}")
    vision = config.vision_config
    processor = Qwen2VLImageProcessorPil(
        patch_size=vision.patch_size,
        merge_size=vision.spatial_merge_size,
        temporal_patch_size=vision.temporal_patch_size,
        image_mean=[0.5] * 3,
        image_std=[0.5] * 3,
    )
    return QwenFeed(tokenizer, config, processor)


def picture(px: int) -> Image:
    """A square PNG: a gradient with patches, as expensive to decode as a diagram."""
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


SPREAD = 0.02
"""Standard deviation of random weights."""


class TooBig(CuecardError):
    """The models do not fit into memory."""

    http_status, hint = 507, "profile fewer models at once, a smaller dtype, or a slice of the layers (--layers)"


@dataclass(frozen=True)
class CheckpointPlan:
    """A model before loading: source of its weights, depth of the slice, dimensions."""

    name: str
    config: Any
    """Transformers' configuration, of the slice if there is one."""
    source: str | None
    """Location of the weights; None: random weights."""
    sizes: Dimensions
    """Dimensions of what is timed: those of the slice, if there is one."""
    whole: Dimensions
    layers: int | None = None
    """Layers of a slice: as many of the decoder, and at most as many of the encoder."""

    def as_dict(self) -> dict[str, Any]:
        """Values for `profile.json`."""
        text, vision = vars(self.whole.text), vars(self.whole.vision) if self.whole.vision else None
        dimensions = {"text": text, "vision": vision, "weights": self.whole.weights}
        return {"weights": "random" if self.source is None else self.name, "dimensions": dimensions}


@dataclass(frozen=True)
class Subject:
    """A loaded model and its feed."""

    plan: CheckpointPlan
    model: Any
    feed: Feed


def plans(text: str, *, random: bool, layers: int | None) -> list[CheckpointPlan]:
    """The plans for a specification: one, or two slices of different depth. Raises BadInput."""
    config, source = _config_and_source(text, random)
    name = text.rstrip("/").split("/")[-1]
    sizes = dimensions_of(config.to_dict())
    whole = CheckpointPlan(name, config, None if random else source, sizes, sizes)
    if layers is None or layers >= sizes.text.layers:
        return [whole]
    if not random:
        raise BadInput(f"{text} is not run in slices", "--layers goes with --random-weights")
    least = max(2, 2 * (sizes.vision.mergers - 1)) if sizes.vision else 2
    if layers < least:
        raise BadInput(
            f"--layers {layers} is too thin a slice of {name}", f"at least {least}: half of them are timed too"
        )
    return [_slice(whole, count) for count in (layers // 2, layers)]


def _config_and_source(text: str, random: bool) -> tuple[Any, str | None]:
    """Transformers' configuration, and the location of the weights; None for a preset."""
    if text in PRESETS:
        if not random:
            raise BadInput(f"{text} is a preset without weights", "add --random-weights")
        data = copy.deepcopy(PRESETS[text])
        return AutoConfig.for_model(data.pop("model_type"), **data), None
    try:
        match spec.parse(text):
            case spec.Embedded() as embedded:
                source = str(embedded.folder)
            case spec.Checkpoint(source):
                if not Path(source).is_dir():
                    transformers_network.find_hub(source, None)
            case _:
                raise BadInput(f"{text} does not run in this process", "give a checkpoint, or a preset's name")
    except BadInput as error:
        is_unknown = error.message.startswith("unknown model") and "did you mean" not in error.hint
        raise (unknown_preset(text) if is_unknown else error) from None
    try:
        return AutoConfig.from_pretrained(source), source
    except (OSError, ValueError) as error:
        raise BadInput(f"no checkpoint at {source!r}: {one_line(error)}", "see `cuecard models`") from error


def _slice(whole: CheckpointPlan, layers: int) -> CheckpointPlan:
    """The first layers of the decoder, and as many of the encoder; the projector stays whole."""
    config = copy.deepcopy(whole.config)
    config.get_text_config().num_hidden_layers = layers
    if getattr(config.get_text_config(), "layer_types", None):
        config.get_text_config().layer_types = config.get_text_config().layer_types[:layers]
    vision = getattr(config, "vision_config", None)
    if vision is not None and hasattr(vision, "depth"):
        vision.depth = min(layers, vision.depth)
        if getattr(vision, "deepstack_visual_indexes", None):
            vision.deepstack_visual_indexes = list(range(len(vision.deepstack_visual_indexes)))
    return replace(whole, config=config, sizes=dimensions_of(config.to_dict()), layers=layers)


def loaded(plan: CheckpointPlan, device: torch.device, dtype: str) -> Subject:
    """Load the model. Raises BadInput, ModelRefused."""
    if plan.source is None:
        return Subject(plan, random_model(plan.config, device, dtype), made_up(plan.config))
    model, reader = transformers_network.load(plan.source, str(device), dtype, None)
    match reader:
        case QwenReader():
            feed: Feed = QwenFeed(reader.tokenizer, model.config, reader._processor)
        case ProcessorReader():
            feed = ReaderFeed(reader, model.config)
        case _:
            feed = Feed(reader.tokenizer, model.config)
    return Subject(plan, model, feed)


# --- random weights ---------------------------------------------------------------------------------------------------


def outline(config: Any, dtype: str = "float32") -> Any:
    """The modules of a configuration on the meta device: shapes without memory."""
    auto = AutoModelForImageTextToText if hasattr(config, "vision_config") else AutoModelForCausalLM
    with torch.device("meta"):
        return auto.from_config(config, dtype=getattr(torch, dtype))


@torch.no_grad()
def random_model(config: Any, device: torch.device, dtype: str) -> Any:
    """A model with random weights for a Transformers configuration, filled module by module on the device."""
    model = outline(config, dtype)
    generator = torch.Generator(device).manual_seed(0)
    tied = model.config.tie_word_embeddings
    for name, module in model.named_modules():
        if not (tied and name == "lm_head"):
            _fill(model, module, device, generator)
    model.tie_weights()
    return model.eval()


def _fill(model: Any, module: Any, device: torch.device, generator: torch.Generator) -> None:
    """Allocate and fill the module's own parameters and buffers."""
    own = [*module.parameters(recurse=False), *module.buffers(recurse=False)]
    if not own:
        return
    module.to_empty(device=device, recurse=False)
    for name, weight in module.named_parameters(recurse=False):
        if weight.dim() > 1:
            weight.normal_(0, SPREAD, generator=generator)
        else:
            weight.fill_(0.0 if name == "bias" else 1.0)
    if next(module.buffers(recurse=False), None) is not None:
        # rotary frequencies are computed from the configuration
        model._init_weights(module)
