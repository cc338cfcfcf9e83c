"""OpenAI's Python client: an image, streamed.   python ask.py http://127.0.0.1:8400/v1 board.png"""

import base64
import sys

from openai import OpenAI

url, image = sys.argv[1:]
client = OpenAI(base_url=url, api_key="none")
with open(image, "rb") as file:
    data = base64.b64encode(file.read()).decode()
content = [
    {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{data}"}},
    {"type": "text", "text": "How many red digits are there?"},
]
stream = client.chat.completions.create(model="cuecard", messages=[{"role": "user", "content": content}], stream=True)
reasoned = False
for chunk in stream:
    if chunk.choices:
        delta = chunk.choices[0].delta
        if reasoning := getattr(delta, "reasoning_content", None):
            print(reasoning, end="", flush=True)
            reasoned = True
        elif delta.content:
            print("\n" * reasoned + delta.content, end="", flush=True)
            reasoned = False
print()
