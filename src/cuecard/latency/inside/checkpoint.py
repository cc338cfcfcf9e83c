"""The models to time: a checkpoint, or random weights in published dimensions, whole or a slice of the layers."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText

from cuecard.domain.errors import BadInput, CuecardError
from cuecard.latency import dimensions
from cuecard.latency.dimensions import PRESETS, Dimensions, near
from cuecard.latency.inside.inputs import Feed, made_up, of_reader
from cuecard.models import spec
from cuecard.models.local import loading
from cuecard.models.local.engine import first_line

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
    sizes = dimensions.of(config.to_dict())
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
                    loading.find_hub(source, None)
            case _:
                raise BadInput(f"{text} does not run in this process", "give a checkpoint, or a preset's name")
    except BadInput as error:
        is_unknown = error.message.startswith("unknown model") and "did you mean" not in error.hint
        raise (near(text) if is_unknown else error) from None
    try:
        return AutoConfig.from_pretrained(source), source
    except (OSError, ValueError) as error:
        raise BadInput(f"no checkpoint at {source!r}: {first_line(error)}", "see `cuecard models`") from error


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
    return replace(whole, config=config, sizes=dimensions.of(config.to_dict()), layers=layers)


def loaded(plan: CheckpointPlan, device: torch.device, dtype: str) -> Subject:
    """Load the model. Raises BadInput, ModelRefused."""
    if plan.source is None:
        return Subject(plan, random_model(plan.config, device, dtype), made_up(plan.config))
    model, reader = loading.load(plan.source, str(device), dtype, None)
    return Subject(plan, model, of_reader(reader, model.config))


# --- random weights ---------------------------------------------------------------------------------------------------


def outline(config: Any, dtype: str = "float32") -> Any:
    """The modules of a configuration on the meta device: shapes without memory."""
    auto = AutoModelForImageTextToText if hasattr(config, "vision_config") else AutoModelForCausalLM
    with torch.device("meta"):
        return auto.from_config(config, dtype=getattr(torch, dtype))


@torch.no_grad()
def random_model(config: Any, device: torch.device, dtype: str, seed: int = 0) -> Any:
    """A model with random weights for a Transformers configuration, filled module by module on the device."""
    model = outline(config, dtype)
    generator = torch.Generator(device).manual_seed(seed)
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
