"""The Responses API of OpenAI's Python client.   python responses.py http://127.0.0.1:8400/v1 board.png"""

import base64
import sys

from openai import OpenAI

url, image = sys.argv[1:]
with open(image, "rb") as file:
    data = base64.b64encode(file.read()).decode()
content = [
    {"type": "input_image", "image_url": f"data:image/png;base64,{data}"},
    {"type": "input_text", "text": "How many red digits are there?"},
]
client = OpenAI(base_url=url, api_key="none")
print(client.responses.create(model="cuecard", input=[{"role": "user", "content": content}]).output_text)
