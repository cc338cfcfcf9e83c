"use strict";
const at = (id) => document.getElementById(id);
const POLL_MS = 2000;

function make(tag, props = {}, ...children) {
  const node = Object.assign(document.createElement(tag), props);
  node.append(...children.filter((child) => child !== null));
  return node;
}
const seconds = (s) => (s < 0.9995 ? `${(s * 1000).toFixed(s < 0.01 ? 1 : 0)} ms` : `${s.toFixed(s < 10 ? 2 : 1)} s`);
const percent = (share) => `${(100 * share).toFixed(0)}%`;

function headers() {
  const key = at("key").value.trim();
  return key ? { authorization: `Bearer ${key}` } : {};
}

// --- what has happened -----------------------------------------------------------------------------------------------

function tile(name, value, note = "") {
  return [make("dt", { textContent: name }), make("dd", {}, value, note ? make("small", { textContent: ` ${note}` }) : null)];
}

function falseAccepts(audit) {
  if (!audit.checked) return "none looked at again";
  return `${percent(audit.low)} to ${percent(audit.high)}, of ${audit.checked} looked at again${audit.alarming ? ": too many" : ""}`;
}

function tiles(stats) {
  const totals = stats.recent.map((request) => request.total_s).sort((a, b) => a - b);
  const median = totals.length ? seconds(totals[Math.floor(totals.length / 2)]) : "–";
  const tokens = stats.tokens.filter((row) => row.what !== "prompt" && row.what !== "cached");
  const generated = tokens.reduce((sum, row) => sum + row.tokens, 0);
  const failures = Object.values(stats.failures).reduce((sum, count) => sum + count, 0);
  const agreed = stats.routes.agreed ?? 0;
  const groups = [
    tile("requests", String(stats.requests)),
    tile("agreed", stats.requests ? percent(agreed / stats.requests) : "–", "without reasoning"),
    tile("median time", median, `of the last ${totals.length}`),
    tile("saved", seconds(stats.saved_s.estimated), `estimated, of ${stats.saved_s.requests}`),
    tile("tokens generated", generated.toLocaleString("en")),
    tile("failures", String(failures)),
    tile("false accepts", stats.audit.checked ? percent(stats.audit.rate) : "–", falseAccepts(stats.audit)),
  ];
  at("tiles").replaceChildren(...groups.map((group) => make("div", {}, ...group)));
}

function bar(kind, from, to, whole, title) {
  const node = make("span", { className: `bar ${kind}`, title });
  node.style.left = `${(100 * from) / whole}%`;
  node.style.width = `${(100 * Math.max(0, to - from)) / whole}%`;
  return node;
}

function lanes(request, whole) {
  const box = make("div", { className: "lanes" });
  if (request.alone_s) box.append(bar("alone", 0, request.alone_s, whole, `large model alone: ${seconds(request.alone_s)}, estimated`));
  for (const call of request.calls) {
    const lane = call.role === "large" ? "large" : "small";
    const first = call.first_token_s ?? call.end_s;
    const cancelled = call.end === "cancelled" ? " cancelled" : "";
    const title = `${call.role} ${call.mode}: ${seconds(call.start_s)} to ${seconds(call.end_s)}, ${call.tokens ?? "?"} tokens, ${call.end}`;
    box.append(bar(`${lane} wait${cancelled}`, call.start_s, first, whole, title));
    if (call.first_token_s !== null) box.append(bar(`${lane}${cancelled}`, first, call.end_s, whole, title));
  }
  const told = request.calls.map((call) => `${call.role} ${call.mode} until ${seconds(call.end_s)}`).join(", ");
  box.setAttribute("role", "img");
  box.setAttribute("aria-label", told || "no calls");
  return box;
}

function requests(recent) {
  const shown = recent.slice(0, 12);
  if (!shown.length) return at("requests").replaceChildren(make("p", { className: "empty", textContent: "Nothing has been asked yet." }));
  const whole = Math.max(...shown.map((request) => Math.max(request.total_s, request.alone_s ?? 0)), 1e-6);
  const rows = shown.map((request) =>
    make("div", { className: "request", title: request.reason },
      make("span", {}, make("strong", { textContent: request.route }), ` ${request.model}`),
      lanes(request, whole),
      make("span", { className: "time", textContent: seconds(request.total_s) })));
  at("requests").replaceChildren(...rows);
}

function routes(stats) {
  const rows = Object.entries(stats.routes).map(([name, count]) => {
    const share = make("span", { className: "share" });
    share.style.width = percent(count / stats.requests);
    return make("div", { className: "route" }, make("span", { textContent: name }), share,
      make("span", { className: "count", textContent: `${count} (${percent(count / stats.requests)})` }));
  });
  at("routes").replaceChildren(...(rows.length ? rows : [make("p", { className: "empty", textContent: "None yet." })]));
}

function servers(upstreams) {
  const row = (cells, tag = "td") => make("tr", {}, ...cells.map((cell) => (cell instanceof Node ? cell : make(tag, { textContent: cell }))));
  const lines = upstreams.map((server) => {
    const fine = server.state === "closed";
    const state = make("td", { textContent: fine ? "up" : server.state.replace("_", " "), className: fine ? "ok" : "down" });
    return row([server.role, server.model, state, String(server.running), String(server.waiting)]);
  });
  at("servers").replaceChildren(make("table", {}, make("thead", {}, row(["role", "model", "state", "running", "waiting"], "th")), make("tbody", {}, ...lines)));
}

async function refresh() {
  try {
    const answer = await fetch("stats", { headers: headers() });
    if (answer.status === 401) at("access").open = true;
    if (!answer.ok) throw new Error((await answer.json()).error?.message ?? `status ${answer.status}`);
    const stats = await answer.json();
    tiles(stats); requests(stats.recent); routes(stats); servers(stats.upstreams);
    at("state").textContent = `live, since ${new Date(stats.since * 1000).toLocaleString()}`;
    at("state").className = "";
    if (!at("model").options.length) await models();
  } catch (error) {
    at("state").textContent = `not connected: ${error.message}`;
    at("state").className = "bad";
  }
  setTimeout(refresh, POLL_MS);
}

// --- asking ----------------------------------------------------------------------------------------------------------

async function models() {
  const listed = await (await fetch("v1/models", { headers: headers() })).json();
  at("model").replaceChildren(...listed.data.map((model) => make("option", { textContent: model.id })));
}

const asDataUrl = (file) => new Promise((done, fail) => {
  const reader = new FileReader();
  reader.onload = () => done(reader.result);
  reader.onerror = () => fail(reader.error);
  reader.readAsDataURL(file);
});

let picture = null;
async function choose(file) {
  picture = file ? await asDataUrl(file) : null;
  at("preview").hidden = !picture;
  if (picture) { at("preview").src = picture; at("preview").alt = file.name; }
}

let asking = null;
async function ask(event) {
  event.preventDefault();
  asking?.abort();
  const mine = (asking = new AbortController());
  const content = [{ type: "text", text: at("question").value }];
  if (picture) content.unshift({ type: "image_url", image_url: { url: picture } });
  const body = { model: at("model").value, stream: true, messages: [{ role: "user", content }] };
  at("reply").hidden = false;
  at("stop").disabled = false;
  for (const id of ["reasoning", "answer", "how"]) at(id).textContent = "";
  try {
    const answer = await fetch("v1/chat/completions", {
      method: "POST", signal: mine.signal, body: JSON.stringify(body),
      headers: { ...headers(), "content-type": "application/json" },
    });
    if (!answer.ok) throw new Error((await answer.json()).error.message);
    for await (const data of events(answer.body)) heard(data);
  } catch (error) {
    at("how").textContent = mine.signal.aborted ? "stopped" : error.message;
  }
  if (asking === mine) at("stop").disabled = true;
}

async function* events(stream) {
  const reader = stream.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    text += value;
    const parts = text.split("\n\n");
    text = parts.pop();
    for (const part of parts) if (part.startsWith("data: {")) yield JSON.parse(part.slice(6));
  }
}

function heard(data) {
  if (data.error) throw new Error(data.error.message);
  const delta = data.choices[0]?.delta ?? {};
  at("reasoning").textContent += delta.reasoning_content ?? "";
  at("answer").textContent += delta.content ?? "";
  if (data.cuecard) at("how").textContent = `${data.cuecard.route}: ${data.cuecard.reason}; ${seconds(data.cuecard.latency.total_s)}`;
}

// --- begin -----------------------------------------------------------------------------------------------------------

at("key").value = sessionStorage.getItem("cuecard key") ?? "";
at("key").addEventListener("change", () => sessionStorage.setItem("cuecard key", at("key").value));
at("ask").addEventListener("submit", ask);
at("stop").addEventListener("click", () => asking?.abort());
at("image").addEventListener("change", () => choose(at("image").files[0]));
const form = at("ask");
for (const kind of ["dragover", "dragleave", "drop"]) {
  form.addEventListener(kind, (event) => {
    event.preventDefault();
    form.classList.toggle("drop", kind === "dragover");
    const file = kind === "drop" ? event.dataTransfer.files[0] : null;
    if (file?.type.startsWith("image/")) choose(file);
  });
}
refresh();
