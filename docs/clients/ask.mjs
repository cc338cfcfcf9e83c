// OpenAI's client for Node, streamed.   node ask.mjs http://127.0.0.1:8400/v1 board.png
import { readFileSync } from "node:fs";
import OpenAI from "openai";

const [url, image] = process.argv.slice(2);
const client = new OpenAI({ baseURL: url, apiKey: "none" });
const data = readFileSync(image).toString("base64");
const stream = await client.chat.completions.create({
  model: "cuecard",
  stream: true,
  messages: [
    {
      role: "user",
      content: [
        { type: "image_url", image_url: { url: `data:image/png;base64,${data}` } },
        { type: "text", text: "How many red digits are there?" },
      ],
    },
  ],
});
for await (const chunk of stream) {
  const delta = chunk.choices[0]?.delta ?? {};
  process.stdout.write(delta.reasoning_content ?? delta.content ?? "");
}
console.log();
