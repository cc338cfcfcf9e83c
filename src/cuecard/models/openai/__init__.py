"""Models behind a server with OpenAI's chat completions API: vLLM, SGLang, llama.cpp, Ollama, hosted ones."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cuecard.models.openai.client import OpenAIModel

__all__ = ["OpenAIModel"]


def __getattr__(name: str) -> Any:
    """Import the client when it is first used: aiohttp takes long to import."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from cuecard.models.openai.client import OpenAIModel

    return OpenAIModel
