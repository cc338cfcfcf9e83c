"""From a directory, a GGUF file or a hub's repository to a checkpoint in memory; errors are one line."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import torch
from huggingface_hub import HfApi, try_to_load_from_cache
from huggingface_hub.errors import HfHubHTTPError
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText, PreTrainedModel
from transformers.utils import logging

from cuecard.domain.errors import BadInput, CuecardError, MissingExtra, ModelRefused
from cuecard.models.local.engine import first_line
from cuecard.models.local.inputs import PromptReader, prompt_reader

DTYPES = ("float32", "bfloat16", "float16")
GGUF_PACKAGES = ("gguf", "accelerate")
HUB_S = 10


def load(
    source: str, device: str | None, dtype: str | None, revision: str | None
) -> tuple[PreTrainedModel, PromptReader]:
    """Weights, and the reader of their prompts.

    Raises BadInput without a checkpoint, ModelRefused if it is broken, MissingExtra where nothing reads a GGUF file.
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
    except (OSError, ValueError) as error:
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
    try:
        model, found = auto.from_pretrained(place, revision=revision, dtype=chosen, output_loading_info=True, **file)
        if missing := sorted(found["missing_keys"]):  # they would be random
            raise ModelRefused(f"{source} lacks {len(missing)} of its weights: {missing[0]} …", "is it whole?")
        return model.to(device).eval(), prompt_reader(place, config, revision, **file)
    except CuecardError:
        raise
    except Exception as error:  # files, formats, packages and memory: each fails in its own way
        raise ModelRefused(
            f"{source} does not load: {first_line(error)}", "is the checkpoint whole, and is there memory for it?"
        ) from error


def _find_gguf(source: str) -> None:
    """Raises BadInput without the file, MissingExtra without the packages that Transformers reads it with."""
    if not Path(source).is_file():
        raise BadInput(f"there is no file {source}", "give a GGUF file, a directory, or hf:ORG/NAME")
    if missing := [name for name in GGUF_PACKAGES if find_spec(name) is None]:
        raise MissingExtra(
            f"{Path(source).name} is a GGUF file, which needs {' and '.join(missing)}",
            "pip install '.[local]' in a checkout",
        )


def find_hub(source: str, revision: str | None) -> None:
    """Raises BadInput where nothing was fetched before and no hub answers: Transformers would ask for half a minute."""
    if isinstance(try_to_load_from_cache(source, "config.json", revision=revision), str):
        return
    try:
        HfApi().model_info(source, revision=revision, timeout=HUB_S)
    except HfHubHTTPError:
        return  # it answers; what is wrong with the name Transformers tells better
    except Exception as error:
        raise BadInput(
            f"cannot ask the Hugging Face hub for {source}: {first_line(error)}",
            "is there a network? A directory needs none",
        ) from error


def best_device() -> str:
    return "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
