"""The terms of all pages, and which of them a page uses."""

from __future__ import annotations

import re

TERMS = {
    "accuracy": "The share of questions answered right; the mean score where scores are between 0 and 1.",
    "agreed": "Route: both models gave the same short answer, and it was accepted without reasoning.",
    "arm": "One strategy with its options, run on every question of a task.",
    "attention": "The weights, summing to 1, with which a token reads the tokens before it.",
    "baseline": "The arm that all others are compared with; reason:large unless another is named.",
    "break-even": "The number of tokens that the small model can write until the large model alone is as fast.",
    "card": "The small model's reasoning, as the large model reads it.",
    "cascade": "Strategy: the small model answers short; unless it is confident, the large model reasons.",
    "composed": "A latency put together from calls that were made once and are shared by all arms.",
    "confirmed": "Route: the small model's reasoning came to the large model's short answer.",
    "decode": "The steps that generate tokens after the first, one at a time.",
    "degraded": "Route: a model failed, and the answer is what the other one gave.",
    "direct": "Route: one model answered alone, as its strategy prescribes.",
    "eager": "Schedule: as overlap, and reasoning starts at once; cancelled where the short answers are accepted.",
    "escalated": "Route: the cheap way was not sure enough, and the more expensive one answered.",
    "estimated": "A latency from simulated or fitted models, not timed.",
    "extractor": "The parser that reads an answer out of a reply; several show what depends on the parser.",
    "front": "The arms that no other arm beats in both accuracy and cost (Pareto).",
    "hand-off": "The time from the small model's last reasoning token to the large model's first answer token.",
    "key tokens": "The fewest tokens that carry the given share (delta) of the attention to the reasoning.",
    "measured": "A latency timed live in this run.",
    "mutual": "Strategy: both models answer short; where they agree that is the answer, else the card decides.",
    "overlap": "Schedule: independent calls run at once; the reader computes the card while it is written.",
    "pace": "The speed of a call while another runs beside it, as a share of its speed alone.",
    "placebo": "A card that was replaced, to see what of the real card helps.",
    "prefill": "The pass that computes the prompt, before the first token.",
    "roofline": "The least time that a device's measured compute and bandwidth allow for a component.",
    "route": "The way in which an answer came about; each question has exactly one.",
    "small, large": "The two roles of a pair: small writes the reasoning, large answers.",
    "sparsity": "The smallest share of the reasoning's tokens that carries delta of the attention to it.",
    "thrifty": "Schedule: one call after the other, and none that is not needed.",
    "TPOT": "Time per output token after the first.",
    "TTFT": "Time to first token.",
    "transfer": "Strategy: the large model answers from the card.",
    "transferred": "Route: the large model answered from the card.",
    "unparsed": "A reply in which no answer was recognised.",
}


def terms_in(html: str) -> list[tuple[str, str]]:
    """The terms that the text of a page contains, each with its meaning."""
    text = re.sub(r"<[^>]*>", " ", html)
    return [
        (term, meaning)
        for term, meaning in TERMS.items()
        if re.search(rf"(?<!\w)(?:{term.replace(', ', '|')})s?(?!\w)", text, re.IGNORECASE)
    ]
