"""Models behind a server with OpenAI's chat completions API: vLLM, SGLang, llama.cpp, Ollama, hosted ones."""

from cuecard.models.openai.client import OpenAIModel

__all__ = ["OpenAIModel"]
