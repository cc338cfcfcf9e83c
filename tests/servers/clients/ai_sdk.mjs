// dependencies: ai@7.0.173 @ai-sdk/openai@4.0.118 @ai-sdk/openai-compatible@3.0.92 zod@4.6.7
// The AI SDK with OpenAI's provider, over responses (its default) and chat completions, and with the provider for
// compatible servers: texts, streams, objects, tools in several steps, conversations, images and reasoning.
import assert from "node:assert/strict";
import { createOpenAI } from "@ai-sdk/openai";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { APICallError, Output, generateObject, generateText, isStepCount, streamObject, streamText, tool } from "ai";
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

const openai = createOpenAI({ baseURL: URL, apiKey: KEY });
const given = { name: "cuecard", baseURL: URL, apiKey: KEY, includeUsage: true };
const compatible = createOpenAICompatible(given);
const structured = createOpenAICompatible({ ...given, supportsStructuredOutputs: true });
const MODELS = { responses: openai(MODEL), chat: openai.chat(MODEL), compatible: compatible(MODEL) };

const user = (content) => ({ role: "user", content });
const Product = z.object({ reason: z.string(), value: z.number().int() });
const Animal = z.object({ name: z.string(), diet: z.enum(["plants", "meat", "both"]), legs: z.number().int() });

/** Read a whole stream of parts; what goes wrong comes as a part of it. */
async function parts(asked) {
  const result = streamText({ maxRetries: 0, ...asked, onError: () => {} });
  const read = [];
  let text = "";
  for await (const part of result.stream) {
    if (part.type === "error") throw part.error;
    if (part.type === "text-delta") text += part.text;
    read.push(part);
  }
  return { result, read, text };
}

const generate = (asked) => generateText({ maxRetries: 0, ...asked });

/** A tool, and the cities that it is called with. */
function weather() {
  const cities = [];
  const get_weather = tool({
    description: "The weather in a city.",
    inputSchema: z.object({ city: z.string().describe("The city's name") }),
    execute: async ({ city }) => {
      cities.push(city);
      return FORECAST;
    },
  });
  return { cities, tools: { get_weather } };
}

for (const [name, model] of Object.entries(MODELS)) {
  test(`${name}_text`, async () => {
    const result = await generate({ model, instructions: "Be brief.", prompt: COUNT });
    assert(result.text);
    assert.equal(result.finishReason, "stop");
    assert(result.usage.inputTokens > 0 && result.usage.outputTokens > 0);
    assert.deepEqual(result.warnings, []);
  });

  test(`${name}_stream`, async () => {
    const { result, read, text } = await parts({ model, prompt: DESCRIBE, maxOutputTokens: 60 });
    assert(text);
    assert.equal(await result.text, text);
    assert.equal(read.at(-1).type, "finish");
    assert.match(read.at(-1).finishReason, /^(stop|length)$/);
    assert((await result.usage).outputTokens > 0);
  });

  test(`${name}_conversation`, async () => {
    const messages = [user(COUNT)];
    const first = streamText({ model, messages, maxRetries: 0 });
    assert(await joined(first.textStream, (text) => text));
    messages.push(...(await first.responseMessages), user("Are you sure? Answer with yes or no."));
    assert((await generate({ model, messages })).text);
  });

  test(`${name}_image`, { needs: "images" }, async () => {
    const content = [
      { type: "text", text: DIGITS },
      { type: "file", mediaType: "image/png", data: picture() },
    ];
    const asked = { model, messages: [user(content)] };
    const { text } = await generate(asked);
    assert.match(text.trim(), /^\d+$/);
    assert.equal((await parts(asked)).text, text);
  });

  test(`${name}_tools`, { needs: "json" }, async () => {
    const { cities, tools } = weather();
    const messages = [user(WEATHER)];
    const result = await generate({ model, messages, tools, stopWhen: isStepCount(4) });
    assert.match(cities[0], /Paris/);
    assert.match(result.text, /snow|7/);
    assert.deepEqual(
      result.steps.map((step) => step.finishReason),
      ["tool-calls", "stop"],
    );
    messages.push(...result.responseMessages, user("Thank you. Say goodbye."));
    assert((await generate({ model, messages, tools, stopWhen: isStepCount(4) })).text);
  });

  test(`${name}_tools_streamed`, { needs: "json" }, async () => {
    const { cities, tools } = weather();
    const { result, read, text } = await parts({ model, prompt: WEATHER, tools, stopWhen: isStepCount(4) });
    const kinds = new Set(read.map(({ type }) => type));
    for (const kind of ["tool-input-start", "tool-input-delta", "tool-call", "tool-result"]) {
      assert(kinds.has(kind), kind);
    }
    assert.match(cities[0], /Paris/);
    assert.match(text, /snow|7/);
    assert.equal((await result.steps).length, 2);
  });

  test(`${name}_errors`, async () => {
    const error = await rejection(generate({ model, messages: [user([{ type: "text", text: " " }])] }));
    assert(APICallError.isInstance(error), error);
    assert.equal(error.statusCode, 400);
    assert(error.message);
  });
}

for (const name of ["responses", "chat"]) {
  test(`${name}_tool_choice`, { needs: "json" }, async () => {
    for (const toolChoice of ["required", { type: "tool", toolName: "get_weather" }]) {
      const { cities, tools } = weather();
      await generate({ model: MODELS[name], prompt: "Hello from Bern.", tools, toolChoice });
      assert(cities.length > 0);
    }
  });
}

// The provider for compatible servers asks for JSON without a schema unless an option says that the server supports them.
for (const [name, model] of Object.entries({ ...MODELS, compatible: structured(MODEL) })) {
  test(`${name}_object`, { needs: "json" }, async () => {
    const { output } = await generate({ model, output: Output.object({ schema: Product }), prompt: COUNT });
    Product.parse(output);
  });

  test(`${name}_object_streamed`, { needs: "json" }, async () => {
    const asked = { model, output: Output.object({ schema: Animal }), prompt: "Describe a cow." };
    const { result } = await parts(asked);
    Animal.parse(await result.output);
  });
}

test("generate_object", { needs: "json" }, async () => {
  const { object } = await generateObject({ model: MODELS.responses, schema: Product, prompt: COUNT, maxRetries: 0 });
  Product.parse(object);
});

test("stream_object", { needs: "json" }, async () => {
  let problem = null;
  const onError = ({ error }) => (problem = error);
  const asked = { model: MODELS.chat, schema: Animal, prompt: "Describe a cow.", maxRetries: 0, onError };
  const { object, partialObjectStream } = streamObject(asked);
  object.catch(() => {});
  for await (const _ of partialObjectStream);
  if (problem) throw problem;
  Animal.parse(await object);
});

test("compatible_object_without_schema", { needs: "json" }, async () => {
  const prompt = 'What is 7 times 8? Answer as JSON: {"reason": "...", "value": 1}';
  const { output } = await generate({ model: MODELS.compatible, output: Output.json(), prompt });
  assert.equal(typeof output, "object");
});

test("stop", async () => {
  const asked = { model: MODELS.chat, prompt: "Count from 1 to 20.", maxOutputTokens: 60, temperature: 0 };
  const whole = (await generate(asked)).text;
  const word = whole.slice(Math.floor(whole.length / 2)).slice(0, 4);
  const before = whole.slice(0, whole.indexOf(word));
  const cut = await generate({ ...asked, stopSequences: [word] });
  assert.deepEqual([cut.text, cut.finishReason], [before, "stop"]);
  assert.equal((await parts({ ...asked, stopSequences: [word] })).text, before);
});

test("compatible_reasoning", async () => {
  const model = compatible("cuecard/transfer");
  const messages = [user(COUNT)];
  const whole = await generate({ model, messages });
  assert(whole.reasoningText);
  assert(whole.text);
  const { read, text } = await parts({ model, messages });
  assert(text);
  assert(read.some((part) => part.type === "reasoning-delta" && part.text));
  messages.push(...whole.responseMessages, user("Are you sure? Answer with yes or no."));
  assert((await generate({ model, messages })).text);
});

// OpenAI's provider sends the ids of earlier items back, or the items themselves if they are not stored.
for (const store of [true, false]) {
  test(store ? "responses_after_reasoning" : "responses_not_stored", async () => {
    const asked = { model: openai("cuecard/transfer"), providerOptions: { openai: { store } } };
    const messages = [user(COUNT)];
    const first = await generate({ ...asked, messages });
    assert(first.text);
    messages.push(...first.responseMessages, user("Are you sure? Answer with yes or no."));
    assert((await generate({ ...asked, messages })).text);
  });
}

await run();
