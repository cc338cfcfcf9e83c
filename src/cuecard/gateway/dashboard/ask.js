// The place to ask: an image, a question, and both models as they speak.

import { at, headers, lanes, make, problem, seconds, table } from "./show.js";

export async function models() {
  const answer = await fetch("v1/models", { headers: headers() });
  if (!answer.ok) throw new Error(await problem(answer));
  at("model").replaceChildren(...(await answer.json()).data.map((model) => make("option", { textContent: model.id })));
}

// --- the image -------------------------------------------------------------------------------------------------------

const asDataUrl = (blob) => new Promise((done, fail) => {
  const reader = new FileReader();
  reader.onload = () => done(reader.result);
  reader.onerror = () => fail(reader.error);
  reader.readAsDataURL(blob);
});

let picture = null;
async function show(blob, name) {
  picture = blob ? await asDataUrl(blob) : null;
  at("preview").hidden = at("remove").hidden = !picture;
  if (picture) at("preview").src = picture;
  at("preview").alt = name;
  if (at("how").className === "bad") at("reply").hidden = true; // what went wrong was about another image
}

/** From a drop or the clipboard; false if there is no image. */
function take(data) {
  const file = [...(data?.files ?? [])].find((each) => each.type.startsWith("image/"));
  if (file) { at("image").value = ""; show(file, file.name); }
  return Boolean(file);
}

async function example() {
  at("image").value = "";
  at("question").value = "How many red digits are there?";
  await show(await (await fetch("dashboard/example.png")).blob(), "Sixteen cells, each with a handwritten digit in red, green or blue");
}

function remove() {
  at("image").value = "";
  show(null, "");
  at("image").focus();
}

// --- asking ----------------------------------------------------------------------------------------------------------

let asking = null;
async function ask(event) {
  event.preventDefault();
  asking?.abort();
  const mine = (asking = new AbortController());
  const content = [{ type: "text", text: at("question").value }];
  if (picture) content.unshift({ type: "image_url", image_url: { url: picture } });
  const body = { model: at("model").value, stream: true, messages: [{ role: "user", content }] };
  begin();
  const began = performance.now();
  const clock = setInterval(() => { at("how").textContent = `under way, ${((performance.now() - began) / 1000).toFixed(1)} s`; }, 100);
  let fault = "";
  try {
    const answer = await fetch("v1/chat/completions", {
      method: "POST", signal: mine.signal, body: JSON.stringify(body),
      headers: { ...headers(), "content-type": "application/json" },
    });
    if (!answer.ok) throw new Error(await problem(answer));
    let account = null;
    for await (const data of events(answer.body)) account = heard(data) ?? account;
    clearInterval(clock);
    if (account) told(account);
    else fault = "the answer broke off";
  } catch (error) {
    fault = mine.signal.aborted ? "stopped" : error.message;
  }
  clearInterval(clock);
  if (asking !== mine) return;
  if (fault) failed(fault);
  if (document.activeElement === at("stop")) at("go").focus();
  at("stop").disabled = true;
  document.dispatchEvent(new Event("answered"));
}

function begin() {
  at("reply").hidden = false;
  at("stop").disabled = false;
  for (const id of ["reasoning", "answer", "how", "timeline"]) at(id).replaceChildren();
  at("how").className = "";
  at("reasoning-state").textContent = "not begun";
  at("answer-state").textContent = "not yet";
}

async function* events(stream) {
  const reader = stream.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const parts = (text + value).split("\n\n");
    text = parts.pop();
    for (const part of parts) if (part.startsWith("data: {")) yield JSON.parse(part.slice(6));
  }
}

/** A piece of either model's text; the account of the request, in the last one. */
function heard(data) {
  if (data.error) throw new Error(data.error.message);
  const { reasoning_content: reasoning, content } = data.choices[0]?.delta ?? {};
  if (reasoning) at("reasoning-state").textContent = "being written …";
  if (content) at("answer-state").textContent = "being spoken …";
  at("reasoning").append(reasoning ?? "");
  at("answer").append(content ?? "");
  return data.cuecard;
}

/** Who did what, as it is known once all is over. */
function told(account) {
  const thinker = account.calls.find((call) => call.mode === "reason");
  const tokens = (call) => `${call.completion_tokens ?? "?"} tokens in ${seconds(call.end_s - call.start_s)}`;
  const cut = thinker?.cancelled ? ", cut off as it was not needed" : "";
  at("reasoning-state").textContent = thinker ? `of the ${thinker.role} model: ${tokens(thinker)}${cut}` : "was not needed";
  at("answer-state").textContent = `after ${seconds(account.latency.total_s)}`;
  at("how").textContent = `${account.route}: ${account.reason}`;
  at("timeline").style.setProperty("--whole", Math.max(account.latency.total_s, 1e-6));
  at("timeline").replaceChildren(lanes(account.calls, null), table(account.calls));
}

function failed(fault) {
  at("how").textContent = fault;
  at("how").className = "bad";
  for (const id of ["reasoning", "answer"]) at(`${id}-state`).textContent = at(id).textContent ? "broken off" : "none";
}

// --- begin -----------------------------------------------------------------------------------------------------------

at("ask").addEventListener("submit", ask);
at("stop").addEventListener("click", () => asking?.abort());
at("example").addEventListener("click", example);
at("remove").addEventListener("click", remove);
at("image").addEventListener("change", () => show(at("image").files[0], at("image").files[0]?.name ?? ""));
at("question").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) at("ask").requestSubmit();
});
document.addEventListener("paste", (event) => {
  if (take(event.clipboardData)) event.preventDefault();
});
for (const kind of ["dragover", "dragleave", "drop"]) {
  at("ask").addEventListener(kind, (event) => {
    event.preventDefault();
    at("drop").classList.toggle("over", kind === "dragover");
    if (kind === "drop") take(event.dataTransfer);
  });
}
