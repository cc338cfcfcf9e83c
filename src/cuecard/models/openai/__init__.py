"""Models behind an HTTP server that speaks OpenAI's chat completions: vLLM, SGLang, llama.cpp, Ollama, hosted ones."""

from cuecard.models.openai.client import OpenAIModel

__all__ = ["OpenAIModel"]
