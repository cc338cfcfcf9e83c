"""What goes into a checkpoint, and its computation: inputs of prompts, prefix caching, the interface of networks.

The prefix cache holds keys and values of computed tokens, so that no prompt token is computed twice. They are in arrays
with spare capacity, so that a new token costs no copy of those before it (Transformers' own layers copy all of them for
each token), and sequences with a common prefix share them.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from cuecard.domain.errors import BadInput
from cuecard.domain.question import Image
from cuecard.models.base import Limits
from cuecard.models.prompt import Prompt, Turn, neutral

IMAGES_KEPT = 16


@dataclass(frozen=True)
class Inputs:
    """Model inputs of a prompt: token ids, the end of the last image, and the images."""

    ids: list[int]
    images: tuple[str, ...]
    images_end: int
    tensors: dict[str, Any]
    """PyTorch tensors of the images."""
    pictures: tuple[tuple[Any, tuple[int, int]], ...] = ()
    """Or NumPy arrays (patches, values), each with its grid (rows, columns) of patches."""

    def first(self, count: int) -> Inputs:
        """The first `count` tokens; the others have to be text."""
        tokens = (1, len(self.ids))
        cut = {name: part[:, :count] if part.shape[:2] == tokens else part for name, part in self.tensors.items()}
        return replace(self, ids=self.ids[:count], tensors=cut)


class KeptImages:
    """The last processed images, by digest: the images themselves, which may be large, are not kept."""

    def __init__(self) -> None:
        self._made: OrderedDict[str, Any] = OrderedDict()

    def of(self, image: Image, make: Callable[[Image], Any]) -> Any:
        """What `make` returns for an image, made once."""
        if image.digest not in self._made:
            self._made[image.digest] = make(image)
        self._made.move_to_end(image.digest)
        while len(self._made) > IMAGES_KEPT:
            self._made.popitem(last=False)
        return self._made[image.digest]

    def clear(self) -> None:
        """Drop all of them."""
        self._made.clear()


class PromptReader(Protocol):
    """Converts prompts to inputs."""

    tokenizer: Any

    def inputs(self, prompt: Prompt) -> Inputs: ...

    def forget(self) -> None: ...


def with_places(text: str, placeholder: str, counts: Sequence[int]) -> str:
    """The rendered prompt with each image's placeholder repeated once per visual token. Raises BadInput."""
    head, *rest = text.split(placeholder)
    if len(rest) != len(counts):
        raise BadInput(f"the prompt has {len(counts)} images and {len(rest)} places for them")
    return head + "".join(placeholder * count + after for count, after in zip(counts, rest, strict=True))


def tokenized(tokenizer: Any, text: str) -> list[int]:
    """Ids of a rendered prompt, which already contains the special tokens of its template."""
    return tokenizer(text, add_special_tokens=False).input_ids


_THINK_CUE = re.compile(r"<think>\s*(?:</think>\s*)?$")
_CUT = "\ue000cut\ue000"


def messages(turns: tuple[Turn, ...], parts: bool) -> list[dict[str, Any]]:
    """Turns as messages for chat templates: images first, then the text; without `parts` only text (text models)."""
    if not parts:
        return [{"role": turn.role, "content": turn.text} for turn in turns]
    return [
        {"role": turn.role, "content": [*({"type": "image"} for _ in turn.images), {"type": "text", "text": turn.text}]}
        for turn in turns
    ]


def render(tokenizer: Any, prompt: Prompt, parts: bool = True) -> str:
    """The prompt's text up to the point where the model continues, with one placeholder per image.

    A think block (open or empty) that the template itself adds after the assistant's cue is replaced by the prompt's
    own opening. If the prompt's card is unfinished, the text ends with the card.
    """
    ends_in_turns = prompt.unfinished and prompt.opening == prompt.style.none
    *before, last = prompt.turns
    turns = (*before, replace(last, text=last.text + _CUT)) if ends_in_turns else prompt.turns
    text = tokenizer.apply_chat_template(messages(turns, parts), tokenize=False, add_generation_prompt=True)
    return text.partition(_CUT)[0] if ends_in_turns else _THINK_CUE.sub("", text) + prompt.opening


# --- spans ------------------------------------------------------------------------------------------------------------


class Span(StrEnum):
    """The part that a key belongs to, exactly one per key."""

    SINK = "sink"
    """The first token, where heads put attention that they do not need; a learned sink's share is added to it."""
    SYSTEM = "system"
    IMAGE = "image"
    QUESTION = "question"
    REASONING = "reasoning"
    """The model's own reasoning, or the card."""
    CUE = "cue"
    """Between question or card and the answer: marks of turns and of closed thinking."""
    ANSWER = "answer"
    OTHER = "other"
    """Marks of turns, and an earlier conversation."""


@dataclass(frozen=True)
class Spans:
    """One span for each key, and the key's text."""

    names: tuple[Span, ...]
    pieces: tuple[str, ...]

    def of(self, span: Span) -> list[int]:
        """Positions of the keys of a span, in order."""
        return [place for place, name in enumerate(self.names) if name is span]


def spans(prompt: Prompt, ids: Sequence[int], answered: int, tokenizer: Any, image: int | None) -> Spans:
    """The spans of a prompt and its answer (the last `answered` ids). Raises BadInput if there is no reasoning."""
    pieces, length = spelled(tokenizer, ids), len(ids) - answered
    ends, text = [], ""
    for piece in pieces[:length]:
        text += piece
        ends.append(len(text))
    names = [Span.OTHER] * length + [Span.ANSWER] * answered
    for span, (start, end) in _regions(prompt, text):
        for place, stop in enumerate(ends):
            if max(start, stop - len(pieces[place])) < min(end, stop):
                names[place] = span
    names = [Span.IMAGE if token == image else name for name, token in zip(names, ids, strict=True)]
    names[0] = Span.SINK
    return Spans(tuple(names), tuple(pieces))


def _regions(prompt: Prompt, text: str) -> list[tuple[Span, tuple[int, int]]]:
    """(start, end) of each span in the prompt's text; later ones override earlier ones."""
    turns, found = prompt.turns, []
    if turns[0].role == "system":
        found.append((Span.SYSTEM, _place(text, turns[0].text)))
    found.append((Span.CUE, (_place(text, turns[-1].text)[1], len(text))))
    given_as_turn = turns[-2:-1] == (Turn("assistant", neutral(prompt.card or "").strip()),)
    asked = turns[-3 if given_as_turn else -1].text
    lead = prompt.style.words.notes.partition("{card}")[0].rpartition("\n\n")[2]
    found.append((Span.QUESTION, _place(text, asked.partition(f"\n\n{lead}")[0])))
    if prompt.card is not None:
        found.append((Span.REASONING, _place(text, neutral(prompt.card))))
    return found


def _place(text: str, part: str) -> tuple[int, int]:
    """(start, end) of the last occurrence of a part. Raises BadInput."""
    part = part.strip()
    at = text.rfind(part) if part else -1
    if at < 0:
        raise BadInput(f"no reasoning to look at: {part[:40]!r} is not in the prompt", "does the model reason at all?")
    return at, at + len(part)


def spelled(tokenizer: Any, ids: Sequence[int]) -> list[str]:
    """The text of each token; a character of several tokens belongs to the last one."""
    pieces: list[str] = []
    window: list[int] = []
    text, shown = "", 0
    for token in ids:
        window.append(token)
        text = tokenizer.decode(window, clean_up_tokenization_spaces=False)
        if text.endswith("\ufffd"):  # the first bytes of a character; or U+FFFD itself, which goes with the next token
            pieces.append("")
            continue
        pieces.append(text[shown:])
        # the token before decides whether the next one decodes with a space
        alone = tokenizer.decode([token], clean_up_tokenization_spaces=False)
        window, shown = ([token], len(alone)) if "\ufffd" not in alone else ([], 0)
        text = alone if window else ""
    if pieces and len(text) > shown:
        pieces[-1] += text[shown:]
    return pieces


if TYPE_CHECKING:  # PyTorch need not be there
    from cuecard.models.local.attention_hook import Rows

# --- prefixes ---------------------------------------------------------------------------------------------------------

LEAST_TEMPERATURE = 1e-5
"""Below this, sampling is greedy already, and float32 would overflow."""
Logits = Any
"""(kept, vocabulary) numbers of a network's own kind."""
Watch = Callable[[Sequence[Any]], object]
"""Takes the (tokens, width) visual tokens of each image, as NumPy arrays."""
SPARE_TOKENS = 64
LAST_WORD = 8
"""Maximum tokens of one word."""


@dataclass(eq=False)
class Room:
    """Keys and values (…, capacity, head_dim) of one layer, of which the first `used` tokens are filled.

    NumPy arrays or PyTorch tensors.
    """

    keys: Any
    values: Any
    used: int

    @property
    def size_bytes(self) -> int:
        """Size of both arrays, including spare capacity."""
        return int(self.keys.nbytes + self.values.nbytes)


def with_room(room: Room | None, like: Any, start: int, end: int) -> Room:
    """A room for tokens `start` to `end`: this one, or a copy; type and other axes as `like` (…, tokens, head_dim).

    Append in place, copy on write: the first sequence that continues at the end of a room's tokens writes there; others
    get a copy of the first `start` tokens.
    """
    if room is not None and room.used == start and room.keys.shape[-2] >= end:
        room.used = end
        return room
    larger = Room(_empty(like, end), _empty(like, end), end)
    if room is not None:
        larger.keys[..., :start, :], larger.values[..., :start, :] = (
            room.keys[..., :start, :],
            room.values[..., :start, :],
        )
    return larger


def _empty(like: Any, tokens: int) -> Any:
    shape = (*like.shape[:-2], tokens + max(SPARE_TOKENS, tokens // 4), like.shape[-1])
    return np.empty(shape, like.dtype) if isinstance(like, np.ndarray) else like.new_empty(shape)


@dataclass(frozen=True)
class Computed:
    """The keys and values of these ids with these images, one room per layer."""

    ids: tuple[int, ...]
    images: tuple[str, ...]
    rooms: tuple[Room, ...]
    rope_delta: int
    """Positions minus tokens so far; at most 0 (Qwen's images take fewer positions)."""
    passing: bool = False
    """It ends in an unfinished text."""

    def begins(self, other: Computed, but: int = 0) -> bool:
        """Whether `other` continues this sequence without its last `but` tokens."""
        return self.images == other.images and common(self.ids, other.ids) >= len(self.ids) - but


class Prefixes:
    """The most recently used sequences; a new prompt reuses the longest common prefix.

    Bounded by bytes (a room that several sequences share counts once) and by number (each is compared with a new
    prompt). The least recently used is dropped first.
    """

    def __init__(self, most_bytes: int, most: int = 8) -> None:
        self._most_bytes, self._most, self._held = most_bytes, most, OrderedDict[int, Computed]()
        self._count = 0

    @property
    def size_bytes(self) -> int:
        """Size of all rooms that are held."""
        return _size_bytes(self._held.values())

    def find(self, ids: Sequence[int], images: tuple[str, ...], needed: int) -> tuple[Computed, int] | None:
        """The sequence with the longest common prefix, and its length: at least `needed`, so that no image is split."""
        best, longest = None, max(needed, 1) - 1
        for key, held in self._held.items():
            if held.images == images and (length := common(held.ids, ids)) > longest:
                best, longest = key, length
        if best is None:
            return None
        self._held.move_to_end(best)
        return self._held[best], min(longest, len(ids) - 1)

    def holds(self, images: Sequence[Image]) -> bool:
        """Whether a sequence with these images is held."""
        digests = tuple(image.digest for image in images)
        return any(held.images == digests for held in list(self._held.values()))

    def keep(self, computed: Computed) -> None:
        """Hold a sequence if it fits; drop those that it continues, and the least recently used."""
        if _size_bytes([computed]) > self._most_bytes:
            return
        for key, held in list(self._held.items()):
            # the last word of an unfinished text may be tokenized differently when more text follows
            if held.begins(computed, but=LAST_WORD if held.passing and computed.passing else 0):
                del self._held[key]
            elif computed.begins(held):
                return
        self._count += 1
        self._held[self._count] = computed
        while len(self._held) > self._most or self.size_bytes > self._most_bytes:
            self._held.popitem(last=False)

    def clear(self) -> None:
        self._held.clear()


def _size_bytes(sequences: Iterable[Computed]) -> int:
    rooms = {id(room): room for each in sequences for room in each.rooms}
    return sum(room.size_bytes for room in rooms.values())


def common(one: Sequence[int], other: Sequence[int]) -> int:
    """Length of the longest common prefix."""
    length = min(len(one), len(other))
    if tuple(one[:length]) == tuple(other[:length]):
        return length
    return next(i for i in range(length) if one[i] != other[i])


# --- networks, of Transformers and of NumPy ---------------------------------------------------------------------------


class Network(Protocol):
    """A checkpoint in memory. Used by one thread at a time."""

    place: str
    """The device, as PyTorch names it."""
    sees_images: bool
    most_tokens: int
    ends: frozenset[int]
    """Tokens that end an answer, besides the tokenizer's."""
    is_trained_pair: bool
    """Whether prompts have the wordings of the embedded pair's training."""
    shares_prefixes: bool
    """Every layer keeps all tokens (no sliding window, no recurrent state), so that prefixes can be reused."""

    @property
    def image_token(self) -> int | None:
        """The token id at the places of images; None for a language model."""

    def cache(self, rooms: Sequence[Room] = (), length: int = 0) -> Any:
        """A cache that holds the first `length` tokens of these rooms.

        Its `rooms`: one per layer, none if prefixes cannot be shared; `drop_last()` drops the last token.
        """

    def read(self, inputs: Inputs, cache: Any, most: int, watch: Watch | None = None) -> tuple[Logits, int]:
        """Prefill a prompt up to its last image, or its first `most` tokens if that is more.

        -> (1, vocabulary) logits, and positions minus tokens (at most 0, as images take fewer positions). `watch` gets
        the visual tokens of the prompt's images, if the network can provide them.
        """

    def extend(self, ids: Sequence[int], position: int, cache: Any, keep: int) -> Logits:
        """Prefill text at a position after a cache -> (kept, vocabulary) logits of the last tokens; keep=0: of all."""

    def append(self, tokens: Sequence[int], positions: Sequence[int], caches: Sequence[Any]) -> list[Logits]:
        """Append a token to each sequence -> (1, vocabulary) logits of each; the greedy choice is the same as alone."""

    def joined(self, parts: Sequence[Logits]) -> Logits:
        """The logits of a whole text, from those of its pieces."""

    def chance(self, limits: Limits) -> Any:
        """A random generator for one call, seeded by its limits."""

    def choose(self, logits: Logits, limits: Limits, chance: Any) -> tuple[int, float]:
        """The next token, and its log probability before temperature."""

    def logprobs(self, logits: Logits, ids: Sequence[int]) -> list[float]:
        """Log probability of each id, by its row of logits."""

    def attend(
        self, ids: Sequence[int], position: int, cache: Any, reduce: Callable[[Rows], Any], hidden: Sequence[int]
    ) -> tuple[list[Any], Logits]:
        """As `extend` with keep=0, with each layer's attention rows reduced; no query attends to `hidden` keys."""
