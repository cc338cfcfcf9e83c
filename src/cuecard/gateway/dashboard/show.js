// How things are shown: elements, numbers, and the calls of a request as lanes and as a table. All text goes in as text.

export const at = (id) => document.getElementById(id);

export function make(tag, props = {}, ...children) {
  const node = Object.assign(document.createElement(tag), props);
  node.append(...children.filter((child) => child !== null));
  return node;
}

export const seconds = (s) => (Math.abs(s) < 0.9995 ? `${(s * 1000).toFixed(Math.abs(s) < 0.01 ? 1 : 0)} ms` : `${s.toFixed(Math.abs(s) < 10 ? 2 : 1)} s`);
export const percent = (share) => `${(100 * share).toFixed(share > 0 && share < 0.1 ? 1 : 0)}%`;

export function headers() {
  const key = at("key").value.trim();
  return key ? { authorization: `Bearer ${key}` } : {};
}

/** What went wrong, from an answer that is not well. */
export async function problem(answer) {
  const told = await answer.json().catch(() => ({}));
  return told.error?.message ?? `the gateway answered with status ${answer.status}`;
}

/** Rows of texts (or elements); columns from `numbers` on are numbers. */
export function rows(names, lines, numbers = Infinity) {
  const row = (tag, cells) => make("tr", {}, ...cells.map((cell, index) => {
    const className = index >= numbers ? "number" : "text";
    return cell instanceof HTMLTableCellElement ? cell : make(tag, { className }, cell);
  }));
  return [make("thead", {}, row("th", names)), make("tbody", {}, ...lines.map((cells) => row("td", cells)))];
}

const isLarge = (call) => call.role === "large";
const MODES = { warm: "reads ahead", read: "reads", reason: "reasons", score: "scores" };
const ending = (call) => call.end ?? call.finish_reason;

function bar(kind, from, to, title) {
  const node = make("span", { className: `bar ${kind}`, title });
  node.style.setProperty("--from", from);
  node.style.setProperty("--to", Math.max(from, to));
  return node;
}

/** Calls in as few rows as it takes for none to lie over another; one model's never in another's. */
function packed(calls) {
  const lines = [];
  for (const call of [...calls].sort((a, b) => isLarge(a) - isLarge(b) || a.start_s - b.start_s)) {
    const free = lines.find((line) => isLarge(line[0]) === isLarge(call) && line.at(-1).end_s <= call.start_s);
    if (free) free.push(call);
    else lines.push([call]);
  }
  return lines;
}

/** Who spoke when. Widths are relative to --whole, the seconds that the whole width stands for. */
export function lanes(calls, alone_s) {
  const box = make("div", { className: "lanes" });
  for (const line of packed(calls)) {
    const lane = make("div", { className: "lane" });
    for (const call of line) {
      const who = `${isLarge(call) ? "large" : "small"}${ending(call) === "cancelled" ? " cancelled" : ""}`;
      const title = `${call.role} ${MODES[call.mode] ?? call.mode}: ${seconds(call.start_s)} to ${seconds(call.end_s)}`;
      lane.append(bar(`${who} wait`, call.start_s, call.first_token_s ?? call.end_s, title));
      if (call.first_token_s !== null) lane.append(bar(who, call.first_token_s, call.end_s, title));
    }
    box.append(lane);
  }
  if (alone_s) box.append(make("div", { className: "lane" }, bar("alone", 0, alone_s, `large model by itself: ${seconds(alone_s)}, estimated`)));
  box.setAttribute("role", "img");
  box.setAttribute("aria-label", calls.map((call) => `${call.role} ${MODES[call.mode] ?? call.mode} until ${seconds(call.end_s)}`).join(", ") || "no calls");
  return box;
}

/** The same in words and numbers. */
export function table(calls) {
  const lines = calls.map((call) => [
    `${call.role} ${MODES[call.mode] ?? call.mode}${ending(call) === "stop" ? "" : `, ${ending(call)}`}`, seconds(call.start_s),
    call.first_token_s === null ? "–" : seconds(call.first_token_s), seconds(call.end_s),
    String(call.tokens ?? call.completion_tokens ?? "–"),
  ]);
  const told = make("table", {}, ...rows(["call", "begins", "first token", "ends", "tokens"], lines, 1));
  return make("div", { className: "scroll" }, told);
}
