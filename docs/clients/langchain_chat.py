"""LangChain.   python langchain_chat.py http://127.0.0.1:8400/v1 board.png"""

import base64
import sys

from langchain_openai import ChatOpenAI

url, image = sys.argv[1:]
with open(image, "rb") as file:
    data = base64.b64encode(file.read()).decode()
model = ChatOpenAI(base_url=url, api_key="none", model="cuecard")
content = [
    {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{data}"}},
    {"type": "text", "text": "How many red digits are there?"},
]
print(model.invoke([("human", content)]).content)
