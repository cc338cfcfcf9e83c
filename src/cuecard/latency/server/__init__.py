"""Timing of models behind OpenAI-compatible servers."""
