"""Anthropic's messages, content blocks and tools in the form of chat completions."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence

from cuecard.domain.errors import BadInput
from cuecard.gateway.wire.chat import MOST_PARTS
from cuecard.gateway.wire.parameters.values import object_of
from cuecard.gateway.wire.usage import Json

BLOCKS = "there are: text, image, document (of text), thinking, tool_use, tool_result"
MEDIA_TYPE = re.compile(r"image/[a-z0-9.+-]{1,60}", re.IGNORECASE)
CHOICES = {"auto": "auto", "any": "required", "none": "none"}
"""Types of `tool_choice` without a name."""
ONLY_OWN_TOOLS = 'a tool that the client runs is {"name": "…", "description": "…", "input_schema": {…}}'


def messages(body: Json) -> list[Json]:
    """`system` and `messages` as messages of chat completions. Raises BadInput."""
    given = body.get("messages")
    if not isinstance(given, list) or not given:
        raise BadInput("messages is not a list, or empty", "the last message is the user's")
    _refuse_many(given, "messages")
    translated = []
    if body.get("system"):
        translated.append({"role": "system", "content": _texts(body["system"], "system")})
    for index, message in enumerate(given):
        where = f"messages.{index}"
        role = message.get("role") if isinstance(message, dict) else None
        match role:
            case "user":
                translated += _of_user(_blocks(message.get("content"), where), where)
            case "assistant":
                translated.append(_of_assistant(_blocks(message.get("content"), where), where))
            case "system":
                translated.append({"role": "system", "content": _texts(message.get("content"), where)})
            case _:
                raise BadInput(f"{where} has the role {str(role)[:100]!r}", "there are: user, assistant, system")
    return translated


def _blocks(content: object, where: str) -> list[Json]:
    """Content as blocks, each with its type; a text is one block."""
    if isinstance(content, str):
        return [{"type": "text", "text": content}]
    if not isinstance(content, list):
        raise BadInput(f"{where} has no content", "a text, or a list of blocks")
    _refuse_many(content, where)
    for block in content:
        if not isinstance(block, dict) or not isinstance(block.get("type"), str):
            raise BadInput(f"{where} has a block without a type", BLOCKS)
    return content


def _refuse_many(given: Sequence[object], where: str) -> None:
    if len(given) > MOST_PARTS:
        raise BadInput(f"{where} has more than {MOST_PARTS} entries", "send fewer")


def _texts(content: object, where: str) -> list[Json]:
    """Content that is nothing but text, as parts."""
    blocks = _blocks(content, where)
    if strange := next((block for block in blocks if block["type"] != "text"), None):
        raise _unknown(strange, where)
    return [_text(block, where) for block in blocks]


def _text(block: Json, where: str) -> Json:
    if not isinstance(block.get("text"), str):
        raise BadInput(f"{where} has a text block without a text")
    return {"type": "text", "text": block["text"]}


def _unknown(block: Json, where: str) -> BadInput:
    return BadInput(f"{where} has a block of type {block['type'][:100]!r}", BLOCKS)


def _of_user(blocks: Sequence[Json], where: str) -> list[Json]:
    """A user's message: the results of tools first, as messages of their own, then all else."""
    results, parts = [], []
    for block in blocks:
        match block["type"]:
            case "tool_result":
                results.append(_result(block, where))
            case _:
                parts.append(_part(block, where))
    return [*results, {"role": "user", "content": parts}] if parts or not results else results


def _part(block: Json, where: str) -> Json:
    match block["type"]:
        case "text":
            return _text(block, where)
        case "image":
            return {"type": "image_url", "image_url": {"url": _image_url(object_of(block, "source"), where)}}
        case "document":
            source = object_of(block, "source")
            if source.get("type") != "text" or not isinstance(source.get("data"), str):
                raise BadInput(f"{where} has a document that is not a text", "send its text, or images of its pages")
            title = f"{block['title']}\n" if isinstance(block.get("title"), str) else ""
            return {"type": "text", "text": title + source["data"]}
        case _:
            raise _unknown(block, where)


def _image_url(source: Json, where: str) -> str:
    data, url, media_type = source.get("data"), source.get("url"), source.get("media_type")
    match source.get("type"):
        case "base64" if isinstance(data, str) and isinstance(media_type, str) and MEDIA_TYPE.fullmatch(media_type):
            return f"data:{media_type};base64,{data}"
        case "url" if isinstance(url, str) and url:
            return url
        case "base64" | "url":
            raise BadInput(f"{where} has an image without its data", "give data and media_type (image/…), or a url")
        case other:
            raise BadInput(f"{where} has an image from a {str(other)[:100]!r}", "there are: base64, url")


def _result(block: Json, where: str) -> Json:
    """The message of role `tool` with a tool's result."""
    identity = block.get("tool_use_id")
    if not isinstance(identity, str) or not identity:
        raise BadInput(f"{where} has a tool_result without a tool_use_id")
    text = "\n".join(part["text"] for part in _texts(block.get("content") or "", f"a tool_result of {where}"))
    return {"role": "tool", "tool_call_id": identity, "content": f"Error: {text}" if block.get("is_error") else text}


def _of_assistant(blocks: Sequence[Json], where: str) -> Json:
    """An earlier answer, without its thinking."""
    texts, calls = [], []
    for block in blocks:
        match block["type"]:
            case "text":
                texts.append(_text(block, where))
            case "thinking" | "redacted_thinking":
                pass
            case "tool_use":
                calls.append(_call(block, where))
            case _:
                raise _unknown(block, where)
    return {"role": "assistant", "content": texts or None} | ({"tool_calls": calls} if calls else {})


def _call(block: Json, where: str) -> Json:
    identity, name, given = block.get("id"), block.get("name"), block.get("input")
    if not (isinstance(identity, str) and identity and isinstance(name, str) and name and isinstance(given, dict)):
        raise BadInput(f"{where} has a tool_use without an id, a name or an input")
    return {
        "id": identity,
        "type": "function",
        "function": {"name": name, "arguments": json.dumps(given, ensure_ascii=False)},
    }


# --- tools ------------------------------------------------------------------------------------------------------------


def tools(body: Json) -> Json:
    """`tools` and `tool_choice` as parameters of chat completions. Raises BadInput."""
    given, choice = body.get("tools") or [], object_of(body, "tool_choice")
    if not isinstance(given, list):
        raise BadInput("tools is not a list")
    _refuse_many(given, "tools")
    if not given:
        return {}
    translated: Json = {"tools": [_tool(tool, f"tools.{index}") for index, tool in enumerate(given)]}
    match choice.get("type"):
        case None:
            pass
        case "tool":
            translated["tool_choice"] = {"type": "function", "function": {"name": choice.get("name")}}
        case str(kind) if kind in CHOICES:
            translated["tool_choice"] = CHOICES[kind]
        case other:
            raise BadInput(f"tool_choice has the type {str(other)[:100]!r}", "there are: auto, any, tool, none")
    if choice.get("disable_parallel_tool_use") is True:
        translated["parallel_tool_calls"] = False
    return translated


def _tool(tool: object, where: str) -> Json:
    if not isinstance(tool, dict):
        raise BadInput(f"{where} is not an object")
    if tool.get("type") not in (None, "custom"):
        raise BadInput(f"{where} is of type {str(tool['type'])[:100]!r}", ONLY_OWN_TOOLS)
    function = {
        "name": tool.get("name"),
        "description": tool.get("description"),
        "parameters": tool.get("input_schema"),
    }
    if tool.get("strict") is not None:
        function["strict"] = tool["strict"]
    return {"type": "function", "function": {key: value for key, value in function.items() if value is not None}}
