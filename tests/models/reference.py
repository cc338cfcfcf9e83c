"""Ground truth for local models: Transformers' own output, by `generate` and one full forward pass."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText

from cuecard.domain.call import FinishReason, Mode
from cuecard.models.base import Limits
from cuecard.models.local.network import Inputs, tokenized
from cuecard.models.local.transformers_network import prompt_reader
from cuecard.models.prompt import Prompt


@dataclass(frozen=True)
class Expected:
    """Expected output of a greedy call; `before_answer`: token ids of the prompt, its reasoning and the closing tag."""

    reasoning: str
    answer: str
    tokens: int
    finish_reason: FinishReason
    before_answer: list[int]
    answer_ids: list[int]


class Reference:
    """A second instance of a checkpoint, without a prefix cache between calls."""

    def __init__(self, folder: Path) -> None:
        config = AutoConfig.from_pretrained(folder)
        auto = AutoModelForImageTextToText if hasattr(config, "vision_config") else AutoModelForCausalLM
        self.model = auto.from_pretrained(folder, dtype=torch.float32).eval()
        self.reader = prompt_reader(str(folder), config, None)
        self.tokenizer = self.reader.tokenizer
        self.end = self.tokenizer.eos_token_id

    def expected(self, prompt: Prompt, limits: Limits) -> Expected:
        """The output for a prompt, by at most two calls of `generate`: one to reason, one with the reasoning closed."""
        inputs = self.reader.inputs(prompt)
        ids, reasoning, finish, spent = inputs.ids, [], FinishReason.STOP, 0
        if prompt.mode is Mode.REASON:
            generated = self.greedy(inputs, ids, limits.reasoning_tokens)
            thought = generated[:-1] if generated[-1] == self.end else generated
            reasoning, closed, _ = self._split(thought, prompt)
            spent = len(reasoning) + len(closed)
            if not closed:
                finish = FinishReason.STOP if generated[-1] == self.end else FinishReason.BUDGET
                closed = tokenized(self.tokenizer, prompt.style.closing)
            ids = [*ids, *reasoning, *closed]
        answer = self.greedy(inputs, ids, limits.answer_tokens + 1)
        finish = finish if answer[-1] == self.end else FinishReason.LENGTH
        answer = answer[: limits.answer_tokens] if finish is FinishReason.LENGTH else answer[:-1]
        decode = self.tokenizer.decode
        return Expected(decode(reasoning).rstrip(), decode(answer).strip(), spent + len(answer), finish, ids, answer)

    def _split(self, generated: list[int], prompt: Prompt) -> tuple[list[int], list[int], list[int]]:
        """(reasoning, closing tag, rest) of generated ids. The closing tag must be a single token."""
        mark = self.tokenizer.convert_tokens_to_ids(prompt.style.closing.strip())
        at = generated.index(mark) if mark in generated else len(generated)
        return generated[:at], generated[at : at + 1], generated[at + 1 :]

    def greedy(self, inputs: Inputs, ids: list[int], most: int) -> list[int]:
        """At most `most` tokens that continue these ids, including the end token."""
        out = self.model.generate(
            input_ids=torch.tensor([ids]),
            attention_mask=torch.ones(1, len(ids), dtype=torch.long),
            do_sample=False,
            max_new_tokens=most,
            **_fitting(inputs, len(ids)),
        )
        return out[0, len(ids) :].tolist()

    @torch.inference_mode()
    def logprobs(self, inputs: Inputs, ids: list[int], wanted: list[int]) -> torch.Tensor:
        """(wanted,) natural log probabilities of the wanted tokens after these ids, by one full forward pass."""
        whole = [*ids, *wanted]
        out = self.model(input_ids=torch.tensor([whole]), use_cache=False, **_fitting(inputs, len(whole)))
        rows = torch.log_softmax(out.logits[0, len(ids) - 1 : -1], -1)
        return rows.gather(-1, torch.tensor(wanted)[:, None])[:, 0]


def _fitting(inputs: Inputs, length: int) -> dict[str, Any]:
    """Tensors of the inputs; those with one entry per token are padded with zeros to `length`."""
    before = (1, len(inputs.ids))
    return {
        name: torch.nn.functional.pad(part, (0, length - before[1])) if part.shape == before else part
        for name, part in inputs.tensors.items()
    }
