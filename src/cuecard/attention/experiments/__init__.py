"""Experiments on cards: words left out, tokens hidden from the answer."""
