// dependencies: @anthropic-ai/sdk@1.14.0 zod@4.6.7
// Anthropic's client for Node: messages, images, thinking, streams, parsing, tools, tokens counted and errors.
import assert from "node:assert/strict";
import Anthropic from "@anthropic-ai/sdk";
import { betaZodTool } from "@anthropic-ai/sdk/helpers/beta/zod";
import { zodOutputFormat } from "@anthropic-ai/sdk/helpers/zod";
import { z } from "zod";
import {
  COUNT,
  DESCRIBE,
  DIGITS,
  FORECAST,
  KEY,
  MODEL,
  URL,
  WEATHER,
  joined,
  picture,
  rejection,
  run,
  test,
} from "./cases.mjs";

const client = new Anthropic({ baseURL: URL.replace(/\/v1$/, ""), apiKey: KEY, maxRetries: 0, timeout: 300_000 });
const user = (content) => ({ role: "user", content });
const ASKED = { model: MODEL, max_tokens: 512, messages: [user(COUNT)] };
const THINKING = {
  ...ASKED,
  model: "cuecard/transfer",
  max_tokens: 2048,
  thinking: { type: "enabled", budget_tokens: 1024 },
};
const Product = z.object({ reason: z.string(), value: z.number().int() });
const TOOL = {
  name: "get_weather",
  description: "The weather in a city.",
  input_schema: { type: "object", properties: { city: { type: "string" } }, required: ["city"] },
};

test("text", async () => {
  const message = await client.messages.create({ ...ASKED, system: "Be brief." });
  assert.deepEqual([message.type, message.role, message.model], ["message", "assistant", MODEL]);
  assert.deepEqual(
    message.content.map((block) => block.type),
    ["text"],
  );
  assert(message.content[0].text);
  assert.equal(message.stop_reason, "end_turn");
  assert(message.usage.output_tokens > 0);
});

test("raw_stream", async () => {
  const asked = { ...ASKED, messages: [user(DESCRIBE)], max_tokens: 60 };
  const kinds = [];
  const text = await joined(await client.messages.create({ ...asked, stream: true }), (event) => {
    kinds.push(event.type);
    return event.type === "content_block_delta" ? event.delta.text : "";
  });
  assert(text);
  assert.equal(kinds[0], "message_start");
  assert.deepEqual(kinds.slice(-2), ["message_delta", "message_stop"]);
});

test("stream", async () => {
  const stream = client.messages.stream({ ...ASKED, messages: [user(DESCRIBE)], max_tokens: 60 });
  let text = "";
  stream.on("text", (delta) => (text += delta));
  const final = await stream.finalMessage();
  assert(text);
  assert.equal(final.content[0].text, text);
  assert(final.usage.output_tokens > 0);
});

test("conversation", async () => {
  const messages = [user(COUNT)];
  const first = await client.messages.create({ ...ASKED, messages });
  messages.push({ role: "assistant", content: first.content }, user("Are you sure? Answer with yes or no."));
  assert((await client.messages.create({ ...ASKED, messages })).content.at(-1).text);
});

test("thinking", async () => {
  const message = await client.messages.create(THINKING);
  assert.deepEqual(
    message.content.map((block) => block.type),
    ["thinking", "text"],
  );
  assert(message.content[0].thinking && message.content[0].signature);
  const messages = [user(COUNT), { role: "assistant", content: message.content }, user("Sure?")];
  assert((await client.messages.create({ ...ASKED, messages })).content.at(-1).text);
});

test("thinking_streamed", async () => {
  const stream = client.messages.stream(THINKING);
  let thought = "";
  stream.on("thinking", (delta) => (thought += delta));
  const final = await stream.finalMessage();
  assert.deepEqual(
    final.content.map((block) => block.type),
    ["thinking", "text"],
  );
  assert.equal(final.content[0].thinking, thought);
  assert(thought && final.content[0].signature);
});

test("image", { needs: "images" }, async () => {
  const source = { type: "base64", media_type: "image/png", data: picture() };
  const messages = [
    user([
      { type: "image", source },
      { type: "text", text: DIGITS },
    ]),
  ];
  const whole = (await client.messages.create({ ...ASKED, messages })).content[0].text;
  assert.match(whole.trim(), /^\d+$/);
  assert.equal(await client.messages.stream({ ...ASKED, messages }).finalText(), whole);
});

test("stop_sequences", async () => {
  const asked = { ...ASKED, messages: [user("Count from 1 to 20.")], max_tokens: 60, temperature: 0 };
  const whole = (await client.messages.create(asked)).content[0].text;
  const word = whole.slice(Math.floor(whole.length / 2)).slice(0, 4);
  const cut = await client.messages.create({ ...asked, stop_sequences: [word] });
  const text = cut.content.map((block) => block.text).join("");
  assert.deepEqual(
    [text, cut.stop_reason, cut.stop_sequence],
    [whole.slice(0, whole.indexOf(word)), "stop_sequence", word],
  );
});

test("count_tokens", async () => {
  const { input_tokens } = await client.messages.countTokens({ model: MODEL, messages: [user(COUNT)] });
  assert(input_tokens > 0);
});

test("parse", { needs: "json" }, async () => {
  const message = await client.messages.parse({ ...ASKED, output_config: { format: zodOutputFormat(Product) } });
  Product.parse(message.parsed_output);
});

test("tool_loop", { needs: "json" }, async () => {
  const messages = [user(WEATHER)];
  const asked = { ...ASKED, messages, tools: [TOOL] };
  const message = await client.messages.create(asked);
  assert.equal(message.stop_reason, "tool_use");
  const [use] = message.content.filter((block) => block.type === "tool_use");
  assert.match(use.input.city, /Paris/);
  const result = { type: "tool_result", tool_use_id: use.id, content: FORECAST };
  messages.push({ role: "assistant", content: message.content }, user([result]));
  const answer = await client.messages.create(asked);
  assert.equal(answer.stop_reason, "end_turn");
  assert.match(answer.content.at(-1).text, /snow|7/);
});

test("tool_loop_streamed", { needs: "json" }, async () => {
  const messages = [user(WEATHER)];
  const asked = { ...ASKED, messages, tools: [TOOL] };
  const stream = client.messages.stream(asked);
  let written = "";
  stream.on("inputJson", (delta) => (written += delta));
  const message = await stream.finalMessage();
  const [use] = message.content.filter((block) => block.type === "tool_use");
  assert.match(use.input.city, /Paris/);
  assert.deepEqual(JSON.parse(written), use.input);
  const result = { type: "tool_result", tool_use_id: use.id, content: [{ type: "text", text: FORECAST }] };
  messages.push({ role: "assistant", content: message.content }, user([result]));
  assert.match(await client.messages.stream(asked).finalText(), /snow|7/);
});

test("tool_choice", { needs: "json" }, async () => {
  for (const tool_choice of [{ type: "any" }, { type: "tool", name: "get_weather" }]) {
    const asked = { ...ASKED, messages: [user("Hello from Bern.")], tools: [TOOL], tool_choice };
    const { content } = await client.messages.create(asked);
    assert(content.some((block) => block.type === "tool_use" && block.name === "get_weather"));
  }
});

// The client's own loop, whole and streamed
for (const stream of [false, true]) {
  test(stream ? "tool_runner_streamed" : "tool_runner", { needs: "json" }, async () => {
    const cities = [];
    const get_weather = betaZodTool({
      name: "get_weather",
      description: "The weather in a city.",
      inputSchema: z.object({ city: z.string() }),
      run: ({ city }) => {
        cities.push(city);
        return FORECAST;
      },
    });
    const asked = { ...ASKED, messages: [user(WEATHER)], tools: [get_weather], max_iterations: 4, stream };
    const final = await client.beta.messages.toolRunner(asked).runUntilDone();
    assert.match(cities[0], /Paris/);
    assert.match(final.content.at(-1).text, /snow|7/);
  });
}

test("errors", async () => {
  const missing = await rejection(client.messages.create({ ...ASKED, model: "claude-not-served" }));
  assert(missing instanceof Anthropic.NotFoundError);
  const empty = await rejection(client.messages.create({ ...ASKED, messages: [] }));
  assert(empty instanceof Anthropic.BadRequestError);
  assert.equal(empty.error.error.type, "invalid_request_error");
  assert(empty.error.error.message);
  assert.equal(empty.error.request_id, empty.requestID);
  const streamed = client.messages.stream({ ...ASKED, max_tokens: 0 });
  assert((await rejection(streamed.finalMessage())) instanceof Anthropic.BadRequestError);
});

await run();
