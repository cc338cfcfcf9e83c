"""Prompts and limits as vLLM takes them: token ids with images, and sampling parameters."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from cuecard.answers.kinds import KINDS
from cuecard.answers.schemas import ANY_OBJECT
from cuecard.domain.call import AnswerToken, Mode
from cuecard.domain.errors import BadInput, BrokenStream, Unsupported
from cuecard.models.base import CallLimits
from cuecard.models.images.images import opened
from cuecard.models.local.inputs import render, tokenized
from cuecard.models.prompt import Prompt
from cuecard.models.vllm.starting import one_line

PromptInput = Mapping[str, Any]
"""A prompt as vLLM's renderer returns it: `prompt_token_ids`, in which each image has all of its tokens."""


class VllmPrompts:
    """Converts prompts to vLLM's inputs. Token ids have one placeholder for each image."""

    def __init__(self, name: str, tokenizer: Any, most: int, *, sees_images: bool) -> None:
        """`most`: maximum tokens of a sequence. Raises BadInput without a chat template."""
        if not tokenizer.chat_template:
            raise BadInput(f"{name} has no chat template", "use an instruction-tuned model")
        self.tokenizer, self.most = tokenizer, most
        self._name, self._sees_images = name, sees_images

    def ids(self, prompt: Prompt) -> list[int]:
        """Raises Unsupported for images that the model cannot take."""
        if prompt.images and not self._sees_images:
            raise Unsupported(f"{self._name} is a language model and cannot see images")
        return self.tokenized(render(self.tokenizer, prompt, parts=self._sees_images))

    def tokenized(self, text: str) -> list[int]:
        return tokenized(self.tokenizer, text)

    async def rendered(self, engine: Any, prompt: Prompt, ids: Sequence[int]) -> PromptInput:
        """The engine's input for these ids and the prompt's images. Raises BadInput if it is empty or too long."""
        # a copy: vLLM appends to the list that it is given (vllm-project/vllm, issue 54215)
        asked: dict[str, Any] = {"prompt_token_ids": list(ids)}
        if prompt.images:
            asked["multi_modal_data"] = {"image": [opened(image) for image in prompt.images]}
            asked["multi_modal_uuids"] = {"image": [image.digest for image in prompt.images]}
        if not asked["prompt_token_ids"]:
            raise BadInput("the prompt is empty")
        self.check_length(len(ids))
        try:
            [found] = await engine.renderer.render_cmpl_async([asked])
        except ValueError as error:
            raise BadInput(f"{self._name} cannot take this prompt: {one_line(error)}") from error
        self.check_length(len(found["prompt_token_ids"]))
        return dict(found)

    def check_length(self, tokens: int) -> None:
        """Raises BadInput for a prompt that leaves no room for an answer."""
        if tokens >= self.most:
            raise BadInput(
                f"the prompt has {tokens} tokens and {self._name} reads at most {self.most}",
                "use fewer or smaller images, or a shorter text, or raise max_len",
            )


def sampling(limits: CallLimits, prompt: Prompt, max_tokens: int) -> Any:
    """vLLM's SamplingParams of a call. Raises BadInput if vLLM refuses the limits or the schema."""
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    extras = limits.extras
    given: dict[str, Any] = dict(extras.sampling)
    if prompt.mode is Mode.REASON or not prompt.is_brief:
        given |= dict(extras.penalties)
    if "top_k" in given:
        given["top_k"] = int(given["top_k"])
    try:
        return SamplingParams(
            **given,
            max_tokens=max_tokens,
            temperature=limits.temperature,
            top_p=limits.top_p,
            seed=limits.seed,
            logit_bias={int(token): bias for token, bias in extras.logit_bias} or None,
            logprobs=extras.top_logprobs or 0,
            structured_outputs=_structured(prompt),
            detokenize=False,
            output_kind=RequestOutputKind.DELTA,
        )
    except (ValueError, TypeError) as error:
        raise BadInput(f"vLLM cannot decode with these limits: {one_line(error)}") from error


def is_structured(prompt: Prompt) -> bool:
    """Whether the answer is decoded under a grammar, which a streamed prompt cannot have."""
    return prompt.constrained or prompt.schema is not None


def _structured(prompt: Prompt) -> Any:
    from vllm.sampling_params import StructuredOutputsParams

    if prompt.schema is not None:
        if prompt.schema == ANY_OBJECT:
            return StructuredOutputsParams(json_object=True)
        return StructuredOutputsParams(json=json.loads(prompt.schema))
    if prompt.constrained and prompt.question is not None:
        grammar = KINDS[prompt.question.kind].grammar
        assert grammar is not None
        return StructuredOutputsParams(regex=grammar(prompt.question).regex)
    return None


def generated(output: Any, tokenizer: Any, *, shown: bool) -> list[tuple[int, float, bool, AnswerToken | None]]:
    """The new tokens of a RequestOutput: id, log probability, whether it ends the turn, and, if `shown`, as a value."""
    [made] = output.outputs
    if made.finish_reason in ("abort", "error"):
        raise BrokenStream(f"vLLM gave the answer up ({made.finish_reason})")
    last, ended = len(made.token_ids) - 1, made.finish_reason == "stop"
    found = []
    for place, (token, likely) in enumerate(zip(made.token_ids, made.logprobs or (), strict=True)):
        value = _answer_token(token, likely, tokenizer) if shown else None
        found.append((token, min(0.0, likely[token].logprob), ended and place == last, value))
    return found


def _answer_token(token: int, likely: Mapping[int, Any], tokenizer: Any) -> AnswerToken:
    def alone(each: int) -> AnswerToken:
        return AnswerToken(tokenizer.decode([each]), min(0.0, likely[each].logprob))

    best = sorted(likely, key=lambda each: -likely[each].logprob)
    own = alone(token)
    return AnswerToken(own.text, own.logprob, None, tuple(alone(each) for each in best))
