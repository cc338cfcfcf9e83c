"""An OpenAI-compatible server in front of a pair, which looks like one model."""
