// dependencies: openai@7.59.0 zod@4.6.7
// OpenAI's client for Node: chat completions, completions, responses, parsing and tools.
import assert from "node:assert/strict";
import OpenAI from "openai";
import { zodFunction, zodResponseFormat, zodResponsesFunction, zodTextFormat } from "openai/helpers/zod";
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
  pictureUrl,
  rejection,
  run,
  test,
} from "./cases.mjs";

const client = new OpenAI({ baseURL: URL, apiKey: KEY, maxRetries: 0, timeout: 300_000 });
const user = (content) => [{ role: "user", content }];
const ASKED = { model: MODEL, messages: user(COUNT) };
const LONG = { model: MODEL, messages: user(DESCRIBE), max_tokens: 60 };
const Product = z.object({ reason: z.string(), value: z.number().int() });
const Animal = z.object({ name: z.string(), diet: z.enum(["plants", "meat", "both"]), legs: z.number().int() });
const City = z.object({ city: z.string() });
const content = (chunk) => chunk.choices[0]?.delta.content;

test("models", async () => {
  const names = [];
  for await (const model of client.models.list()) names.push(model.id);
  assert(names.includes(MODEL));
});

test("text", async () => {
  const completion = await client.chat.completions.create(ASKED);
  assert(completion.choices[0].message.content);
  assert.equal(completion.choices[0].finish_reason, "stop");
  assert(completion.usage.completion_tokens > 0);
});

test("stream", async () => {
  const asked = { ...LONG, stream: true, stream_options: { include_usage: true } };
  const chunks = [];
  for await (const chunk of await client.chat.completions.create(asked)) chunks.push(chunk);
  assert(chunks.map(content).join(""));
  assert(chunks.at(-1).usage.completion_tokens > 0);
});

test("stream_helper", async () => {
  const stream = client.chat.completions.stream(LONG);
  let text = "";
  stream.on("content", (delta) => (text += delta));
  const final = await stream.finalChatCompletion();
  assert(text);
  assert.equal(final.choices[0].message.content, text);
});

test("stop", async () => {
  const asked = { model: MODEL, messages: user("Count from 1 to 20."), max_tokens: 60, temperature: 0 };
  const whole = (await client.chat.completions.create(asked)).choices[0].message.content;
  const word = whole.slice(Math.floor(whole.length / 2)).slice(0, 4);
  const cut = (await client.chat.completions.create({ ...asked, stop: word })).choices[0];
  const streamed = await joined(
    await client.chat.completions.create({ ...asked, stop: [word], stream: true }),
    content,
  );
  const before = whole.slice(0, whole.indexOf(word));
  assert.deepEqual([cut.message.content, streamed, cut.finish_reason], [before, before, "stop"]);
});

test("image", { needs: "images" }, async () => {
  const asked = {
    model: MODEL,
    messages: user([
      { type: "text", text: DIGITS },
      { type: "image_url", image_url: { url: pictureUrl() } },
    ]),
  };
  const whole = (await client.chat.completions.create(asked)).choices[0].message.content;
  assert.match(whole.trim(), /^\d+$/);
  assert.equal(await joined(await client.chat.completions.create({ ...asked, stream: true }), content), whole);
});

test("conversation", async () => {
  const messages = [{ role: "developer", content: "Be brief." }, ...user(COUNT)];
  const first = await client.chat.completions.create({ model: MODEL, messages });
  messages.push(first.choices[0].message, ...user("Are you sure? Answer with yes or no."));
  assert((await client.chat.completions.create({ model: MODEL, messages })).choices[0].message.content);
});

test("reasoning_streamed", async () => {
  const asked = { ...ASKED, stream: true, cuecard: { strategy: "transfer", budget: 128 } };
  let reasoning = "";
  const read = (chunk) => {
    reasoning += chunk.choices[0]?.delta.reasoning_content ?? "";
    return content(chunk);
  };
  assert(await joined(await client.chat.completions.create(asked), read));
  assert(reasoning);
});

test("completions", async () => {
  const asked = { model: MODEL, prompt: COUNT, max_tokens: 60 };
  assert((await client.completions.create(asked)).choices[0].text);
  const chunks = await client.completions.create({ ...asked, stream: true });
  assert(await joined(chunks, (chunk) => chunk.choices[0]?.text));
});

test("parse", { needs: "json" }, async () => {
  const asked = { ...ASKED, response_format: zodResponseFormat(Product, "product") };
  Product.parse((await client.chat.completions.parse(asked)).choices[0].message.parsed);
});

test("parse_streamed", { needs: "json" }, async () => {
  const asked = {
    model: MODEL,
    messages: user("Describe a cow."),
    response_format: zodResponseFormat(Animal, "animal"),
  };
  Animal.parse((await client.chat.completions.stream(asked).finalChatCompletion()).choices[0].message.parsed);
});

/** A tool for `runTools`, and the cities that it is called with. */
function weather() {
  const cities = [];
  const answer = ({ city }) => {
    cities.push(city);
    return FORECAST;
  };
  const tool = zodFunction({
    name: "get_weather",
    description: "The weather in a city.",
    parameters: City,
    function: answer,
  });
  return { cities, tool };
}

test("run_tools", { needs: "json" }, async () => {
  const { cities, tool } = weather();
  const runner = client.chat.completions.runTools({ model: MODEL, messages: user(WEATHER), tools: [tool] });
  assert.match(await runner.finalContent(), /snow|7/);
  assert.match(cities[0], /Paris/);
});

test("run_tools_streamed", { needs: "json" }, async () => {
  const { cities, tool } = weather();
  const asked = { model: MODEL, messages: user(WEATHER), tools: [tool], stream: true };
  const runner = client.chat.completions.runTools(asked);
  const text = await joined(runner, content);
  const final = await runner.finalContent();
  assert.match(final, /snow|7/);
  assert(text.endsWith(final));
  assert.match(cities[0], /Paris/);
});

test("responses", async () => {
  const response = await client.responses.create({ model: MODEL, input: COUNT, instructions: "Be brief." });
  assert(response.output_text);
  assert.equal(response.status, "completed");
  assert(response.usage.output_tokens > 0);
});

test("responses_streamed", async () => {
  const events = await client.responses.create({ model: MODEL, input: DESCRIBE, max_output_tokens: 60, stream: true });
  const kinds = [];
  const text = await joined(events, (event) => {
    kinds.push(event.type);
    return event.type === "response.output_text.delta" ? event.delta : "";
  });
  assert(text);
  assert.equal(kinds[0], "response.created");
  assert.match(kinds.at(-1), /^response\.(completed|incomplete)$/);
});

test("responses_stream_helper", async () => {
  const stream = client.responses.stream({ model: MODEL, input: DESCRIBE, max_output_tokens: 60 });
  const text = await joined(stream, (event) => (event.type === "response.output_text.delta" ? event.delta : ""));
  assert(text);
  assert.equal((await stream.finalResponse()).output_text, text);
});

test("responses_image", { needs: "images" }, async () => {
  const input = user([
    { type: "input_text", text: DIGITS },
    { type: "input_image", image_url: pictureUrl(), detail: "auto" },
  ]);
  assert.match((await client.responses.create({ model: MODEL, input })).output_text.trim(), /^\d+$/);
});

test("responses_parse", { needs: "json" }, async () => {
  const asked = { model: MODEL, input: COUNT, text: { format: zodTextFormat(Product, "product") } };
  Product.parse((await client.responses.parse(asked)).output_parsed);
});

test("responses_parse_streamed", { needs: "json" }, async () => {
  const asked = { model: MODEL, input: "Describe a cow.", text: { format: zodTextFormat(Animal, "animal") } };
  const response = await client.responses.stream(asked).finalResponse();
  assert.equal(response.status, "completed", response.error?.message);
  Animal.parse(response.output_parsed);
});

test("responses_tool_loop", { needs: "json" }, async () => {
  const tools = [
    zodResponsesFunction({ name: "get_weather", description: "The weather in a city.", parameters: City }),
  ];
  const input = user(WEATHER);
  const first = await client.responses.parse({ model: MODEL, input, tools });
  const [call] = first.output.filter((item) => item.type === "function_call");
  assert.match(call.parsed_arguments.city, /Paris/);
  input.push(...first.output, { type: "function_call_output", call_id: call.call_id, output: FORECAST });
  const final = await client.responses.stream({ model: MODEL, input, tools }).finalResponse();
  assert.match(final.output_text, /snow|7/);
});

test("errors", async () => {
  const missing = await rejection(client.chat.completions.create({ ...ASKED, model: "gpt-not-served" }));
  assert(missing instanceof OpenAI.NotFoundError);
  assert.match(missing.message, /gpt-not-served/);
  const empty = await rejection(client.chat.completions.create({ ...ASKED, messages: [] }));
  assert(empty instanceof OpenAI.BadRequestError);
  assert(empty.error.message);
  const responses = await rejection(client.responses.create({ model: MODEL, input: [] }));
  assert(responses instanceof OpenAI.BadRequestError);
});

await run();
