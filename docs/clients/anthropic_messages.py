"""Anthropic's Python client: an image, streamed.   python anthropic_messages.py http://127.0.0.1:8400/v1 board.png"""

import base64
import sys

from anthropic import Anthropic

url, image = sys.argv[1:]
client = Anthropic(base_url=url.removesuffix("/v1"), api_key="none")
with open(image, "rb") as file:
    data = base64.b64encode(file.read()).decode()
content = [
    {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": data}},
    {"type": "text", "text": "How many red digits are there?"},
]
asked = {"model": "cuecard", "max_tokens": 1024, "messages": [{"role": "user", "content": content}]}
with client.messages.stream(**asked, thinking={"type": "adaptive"}) as stream:
    for event in stream:
        if event.type in ("thinking", "text"):
            print(event.thinking if event.type == "thinking" else event.text, end="", flush=True)
print()
