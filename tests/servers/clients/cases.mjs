// What the clients' scripts for Node share, as cases.py does for Python: their arguments, their questions, and how
// their cases run and are printed. A script registers its cases with `test` and ends with `await run()`.
import { readFileSync } from "node:fs";
import { parseArgs } from "node:util";

export const COUNT = "What is 7 times 8? Answer with a number.";
export const DESCRIBE = "Describe what a cat is.";
export const DIGITS = "How many red digits are there?";
export const WEATHER = "What is the current weather in Paris?";
// What the tool `get_weather` returns
export const FORECAST = "snow, -7 degrees";

// What models may be unable to do -> words of the gateway's error in that case; none where the request is answered
const UNABLE = { json: "do not ", images: "image", logprobs: null };

const option = { type: "string" };
const { values: given, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    model: { ...option, default: "cuecard" },
    key: { ...option, default: "none" },
    picture: option,
    without: { ...option, default: "" },
    only: option,
  },
});
if (positionals.length !== 1) {
  console.error(
    "usage: node SCRIPT URL [--model NAME] [--key KEY] [--picture FILE] [--without WHAT,WHAT] [--only CASE]",
  );
  process.exit(2);
}

export const URL = positionals[0].replace(/\/+$/, "");
export const MODEL = given.model;
export const KEY = given.key;
const WITHOUT = given.without.split(",");
const CASES = [];

/** Register a case: `test(name, action)`, or `test(name, { needs }, action)` with a key of UNABLE. */
export function test(name, ...rest) {
  const action = rest.pop();
  const [{ needs } = {}] = rest;
  CASES.push({ name, action, refusal: WITHOUT.includes(needs) ? UNABLE[needs] : null });
}

/** The picture as base64. */
export const picture = () => readFileSync(given.picture).toString("base64");
export const pictureUrl = () => `data:image/png;base64,${picture()}`;

/** Collect what `part` gives for each item of a stream, as one text. */
export async function joined(stream, part) {
  let text = "";
  for await (const item of stream) text += part(item) ?? "";
  return text;
}

/** The error that a promise is rejected with. */
export async function rejection(promise) {
  try {
    await promise;
  } catch (error) {
    return error;
  }
  throw new Error("it was not refused");
}

/** Run every case, and exit with status 1 if one failed. */
export async function run() {
  const chosen = CASES.filter(({ name }) => [undefined, name].includes(given.only));
  const outcomes = [];
  for (const each of chosen) outcomes.push(await passes(each));
  process.exit(outcomes.length > 0 && outcomes.every(Boolean) ? 0 : 1);
}

async function passes({ name, action, refusal }) {
  try {
    await action();
  } catch (error) {
    if (refusal !== null && words(error).includes(refusal)) {
      console.log(`refused ${name}`);
      return true;
    }
    console.error(error);
    console.log(`failed ${name}`);
    return false;
  }
  if (refusal !== null) {
    console.log(`failed ${name}: it passed, though the models cannot do it`);
    return false;
  }
  console.log(`ok ${name}`);
  return true;
}

/** The words of an error and of those that it was raised from. */
function words(error) {
  const found = [];
  for (; error; error = error.cause) found.push(String(error));
  return found.join("\n");
}
