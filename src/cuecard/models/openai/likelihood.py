"""How probable an answer was, from the log probabilities that servers send along."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from cuecard.models.openai.response_body import Token, logprob

_REACH = 8
"""Characters of text that may lie between two tokens: those of a token whose log probability was not sent."""


def answer_logprob(tokens: Iterable[Token], text: str, answer: str) -> float | None:
    """Sum of the natural log probabilities of the tokens that the answer, at the end of the text, is made of.

    None if no token can be placed, or the log probability of one was not observed.
    """
    logprobs = [token.logprob for token in answer_tokens(tokens, text, answer)]
    seen = [each for each in logprobs if each is not None]
    return sum(seen) if seen and len(seen) == len(logprobs) else None


def answer_tokens(tokens: Iterable[Token], text: str, answer: str) -> list[Token]:
    """The tokens that the answer, at the end of the text, is made of.

    Tokens that left nothing in the text (the end of the turn) do not count.
    """
    start = text.rfind(answer) if answer else -1
    if start < 0:
        return []
    end, at = start + len(answer), 0
    placed: list[Token] = []
    for token in tokens:
        spelled = token.text.replace("▁", " ")
        found = text.find(spelled, at, at + len(spelled) + _REACH) if spelled else -1
        if found >= 0:
            begins, at = found, found + len(spelled)
        elif "\ufffd" in spelled or spelled.startswith("bytes:"):
            begins = at  # a part of a character: it belongs where the next token goes on
        else:
            continue
        if begins < end and max(at, begins + 1) > start:
            placed.append(token)
    return placed


def scored(prompt_logprobs: object, answer: str) -> float | None:
    """Natural log probability per token of the answer that a prompt ends in, from vLLM's `prompt_logprobs`.

    (tokens,) of null or {token id: {logprob, decoded_token}}, one entry each -> mean; None if the answer is not there.
    """
    wanted, text, logprobs = answer.strip(), "", []
    for entry in reversed(prompt_logprobs if isinstance(prompt_logprobs, list) else []):
        values = list(entry.values()) if isinstance(entry, Mapping) else []
        if not values or not isinstance(values[0], Mapping):
            return None
        token, value = values[0].get("decoded_token"), logprob(values[0].get("logprob"))
        if not isinstance(token, str) or value is None:
            return None
        text = token.replace("▁", " ") + text
        logprobs.append(value)
        if text.strip() == wanted:
            return sum(logprobs) / len(logprobs)
        if len(text) > len(wanted) + 2 * _REACH:
            return None
    return None
