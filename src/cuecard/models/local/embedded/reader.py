"""Model inputs of the embedded pair, tokens and patches, without Transformers."""

from __future__ import annotations

import json
import math
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from jinja2.sandbox import ImmutableSandboxedEnvironment
from PIL import Image as PilImage
from tokenizers import Tokenizer

from cuecard.domain.errors import BadInput
from cuecard.domain.question import Image
from cuecard.models.images.images import opened
from cuecard.models.local.inputs import IMAGES_KEPT, Inputs, render, tokenized, with_places
from cuecard.models.prompt import Prompt


class PlainTokenizer:
    """A `tokenizer.json` and a chat template, without Transformers."""

    def __init__(self, folder: Path) -> None:
        settings = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
        self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self.chat_template = (folder / "chat_template.jinja").read_text(encoding="utf-8")
        self._template = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True).from_string(
            self.chat_template
        )
        self.eos_token_id = self._tokenizer.token_to_id(settings["eos_token"])

    def __call__(self, text: str, add_special_tokens: bool = False) -> Any:
        encoded = self._tokenizer.encode(text, add_special_tokens=add_special_tokens)
        return SimpleNamespace(input_ids=encoded.ids)

    def decode(self, ids: int | Sequence[int], **_: object) -> str:
        """The text of a token or of several, special tokens included."""
        each = list(ids) if isinstance(ids, Sequence) else np.ravel(ids).tolist()
        text: str = self._tokenizer.decode(each, skip_special_tokens=False)
        return text

    def convert_ids_to_tokens(self, token: int) -> str:
        """How the vocabulary spells a token."""
        return str(self._tokenizer.id_to_token(token))

    def apply_chat_template(self, turns: list[dict[str, Any]], **settings: Any) -> str:
        """The turns rendered by the chat template."""
        settings.pop("tokenize", None)
        return self._template.render(messages=turns, **settings)


class PlainReader:
    """Qwen's prompt layout, without Transformers; each image is processed once."""

    def __init__(self, folder: Path, image_token: int) -> None:
        self.tokenizer = PlainTokenizer(folder)
        self._image_token = image_token
        self._placeholder = self.tokenizer.convert_ids_to_tokens(image_token)
        settings = json.loads((folder / "preprocessor_config.json").read_text(encoding="utf-8"))
        self._patch, self._merge = settings["patch_size"], settings["merge_size"]
        self._repeated = settings["temporal_patch_size"]
        self._least, self._most = settings["size"]["shortest_edge"], settings["size"]["longest_edge"]
        self._mean, self._std = (np.array(settings[f"image_{name}"], np.float32) for name in ("mean", "std"))
        self._seen: OrderedDict[str, tuple[Any, tuple[int, int]]] = OrderedDict()

    def inputs(self, prompt: Prompt) -> Inputs:
        pictures = [self._pixels(image) for image in prompt.images]
        text = with_places(
            render(self.tokenizer, prompt),
            self._placeholder,
            [grid[0] * grid[1] // self._merge**2 for _, grid in pictures],
        )
        ids = tokenized(self.tokenizer, text)
        end = len(ids) - ids[::-1].index(self._image_token) if pictures else 0
        return Inputs(ids, tuple(image.digest for image in prompt.images), end, {}, tuple(pictures))

    def forget(self) -> None:
        """Drop the processed images."""
        self._seen.clear()

    def _pixels(self, image: Image) -> tuple[Any, tuple[int, int]]:
        """(patches, values) and the grid (rows, columns) of patches of one image."""
        if image.digest not in self._seen:
            self._seen[image.digest] = self._patches(opened(image))
            while len(self._seen) > IMAGES_KEPT:
                self._seen.popitem(last=False)
        return self._seen[image.digest]

    def _patches(self, picture: PilImage.Image) -> tuple[Any, tuple[int, int]]:
        patch, merge = self._patch, self._merge
        width, height = smart_size(*picture.size, patch * merge, self._least, self._most)
        resized = picture.convert("RGB").resize((width, height), PilImage.Resampling.BICUBIC)
        values = (np.asarray(resized, np.float32) / np.float32(255) - self._mean) / self._std
        rows, columns = height // patch, width // patch
        values = values.transpose(2, 0, 1).reshape(3, rows // merge, merge, patch, columns // merge, merge, patch)
        values = values.transpose(1, 4, 2, 5, 0, 3, 6)[..., None, :, :]
        repeated = np.broadcast_to(values, (*values.shape[:5], self._repeated, *values.shape[6:]))
        return np.ascontiguousarray(repeated).reshape(rows * columns, -1), (rows, columns)


def smart_size(width: int, height: int, factor: int, least: int, most: int) -> tuple[int, int]:
    """Width and height in multiples of `factor`, with `least` to `most` pixels, at a similar aspect ratio (Qwen2-VL).

    Raises BadInput if one side is more than 200 times the other.
    """
    if max(width, height) > 200 * min(width, height):
        raise BadInput(f"an image of {width}x{height} is too narrow", "its sides differ by more than 200 times")
    sides = [round(side / factor) * factor for side in (width, height)]
    if sides[0] * sides[1] > most:
        by = math.sqrt(width * height / most)
        sides = [max(factor, math.floor(side / by / factor) * factor) for side in (width, height)]
    elif sides[0] * sides[1] < least:
        by = math.sqrt(width * height / least)
        sides = [math.ceil(side / by / factor) * factor for side in (width, height)]
    return sides[0], sides[1]
