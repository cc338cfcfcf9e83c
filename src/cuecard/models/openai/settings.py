"""The settings of a model behind a server: what its caller knows of it, and what a probe has found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from cuecard.domain.errors import BadInput
from cuecard.models.openai.families import Family, family_of, named
from cuecard.models.openai.request_body import Dialect
from cuecard.models.prompt import CardFormat

if TYPE_CHECKING:
    from cuecard.models.probe_results import ProbeResults

TAGS_HINT = 'write the tag that opens reasoning and the one that closes it: reasoning_tags = ["<my>", "</my>"]'


@dataclass(frozen=True)
class ServerSettings:
    """What is known of a model and its server; None: not known, and done without. Raises BadInput."""

    name: str | None = None
    """What the model is called here; None: as the server calls it."""
    api_key: str | None = field(default=None, repr=False)
    family: str | Family | None = None
    """A row of `families.FAMILIES`, or its name; None or "auto": by the model's name and the server's address."""
    timeout_s: float | None = 120.0
    """The longest silence of the server; `Limits.timeout_s` bounds a whole call."""
    extra_body: Mapping[str, Any] | None = field(default=None, repr=False)
    prefill: bool | None = None
    """The server goes on with a last assistant message (`continue_final_message`) and its template keeps the text of
    that message, which only a look at the rendered prompt can show."""
    prefix_cache: bool | None = None
    """The server keeps what it has computed, so that `warm` pays."""
    scoring: bool = False
    """The server gives `prompt_logprobs` (vLLM)."""
    images: bool | None = None
    logprobs: bool | None = None
    reasoning_tags: Sequence[str] | None = None
    """The tags that open and close its reasoning, beside the known ones."""
    constraint: str | None = None
    """How the server decodes under a grammar: a value of `request_body.Dialect`."""
    cards: Sequence[str] | None = None
    """The card formats that the model reads well, the best first."""

    def __post_init__(self) -> None:
        if self.constraint is not None and self.constraint not in tuple(Dialect):
            raise BadInput(f"unknown constraint {self.constraint!r}", f"there are: {', '.join(Dialect)}")
        if any(card not in tuple(CardFormat) for card in self.cards or ()):
            raise BadInput(f"unknown card formats {list(self.cards or ())!r}", f"there are: {', '.join(CardFormat)}")
        if self.reasoning_tags is not None:
            object.__setattr__(self, "reasoning_tags", tag_pair(self.reasoning_tags))

    @property
    def dialect(self) -> Dialect | None:
        return None if self.constraint is None else Dialect(self.constraint)

    @property
    def card_formats(self) -> tuple[CardFormat, ...]:
        """The formats that cards can be given in, the best first; `thinking` needs prefill."""
        formats = tuple(CardFormat(name) for name in self.cards or CardFormat)
        return tuple(form for form in formats if self.prefill or form is not CardFormat.THINKING) or (CardFormat.NOTES,)

    def family_of(self, model: str, base_url: str) -> Family:
        """The model's family. Raises BadInput for a name that is none."""
        if self.family is None or self.family == "auto":
            return family_of(model, base_url)
        return named(self.family) if isinstance(self.family, str) else self.family

    def adapted(self, given: ServerSettings, found: ProbeResults) -> ServerSettings:
        """These settings with what a probe has found, where `given` leaves it open."""
        changes = {name: value for name, value in found.settings.items() if getattr(given, name) is None}
        return replace(self, **changes)


def tag_pair(tags: Sequence[str]) -> tuple[str, str]:
    """The two tags of a setting `reasoning_tags`. Raises BadInput."""
    pair = tuple(tag.strip() for tag in tags if isinstance(tag, str))
    if len(pair) != 2 or len(tags) != 2 or not all(pair) or pair[0] == pair[1]:
        raise BadInput(f"reasoning_tags are not two tags: {list(tags)!r}"[:200], TAGS_HINT)
    return pair[0], pair[1]
