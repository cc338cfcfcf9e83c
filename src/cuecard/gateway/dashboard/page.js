// What has happened: asks /stats every other second and shows it.

import { models } from "./ask.js";
import { at, headers, lanes, make, percent, problem, rows, seconds, table } from "./show.js";

const POLL_MS = 2000;
const SHOWN = 12;
const ROUTES = ["agreed", "confirmed", "transferred", "revised", "stopped", "direct", "escalated", "judged", "voted", "degraded", "failed"];
const sum = (numbers) => numbers.reduce((total, number) => total + number, 0);

// --- totals ----------------------------------------------------------------------------------------------------------

function tile(name, value, note) {
  return make("div", {}, make("dt", { textContent: name }), make("dd", {}, value, make("small", { textContent: note })));
}

function generated(stats, role) {
  const counted = stats.tokens.filter((row) => row.role === role && row.what !== "prompt" && row.what !== "cached");
  return sum(counted.map((row) => row.tokens));
}

function saved({ estimated, alone, requests }) {
  if (!requests) return ["–", "against the large model reasoning by itself: no request tells yet"];
  const compared = alone > 0 ? `${percent(Math.abs(estimated) / alone)} ${estimated < 0 ? "more" : "less"} than` : "against";
  return [seconds(estimated), `${compared} the large model reasoning by itself, in the ${requests} requests that tell`];
}

function tiles(stats) {
  const totals = stats.recent.map((request) => request.total_s).sort((a, b) => a - b);
  const roles = ["small", "large", ...stats.tokens.some((row) => row.role === "third") ? ["third"] : []];
  const written = roles.map((role) => generated(stats, role));
  const counted = (errors) => Object.entries(errors).map(([name, count]) => `${count}: ${stats.words[name]}`).join(" ");
  const refused = sum(Object.values(stats.refusals));
  const without = (stats.routes.agreed ?? 0) / stats.requests;
  at("tiles").replaceChildren(
    tile("requests answered", stats.requests.toLocaleString("en"), `since ${new Date(stats.since * 1000).toLocaleString()}`),
    tile("agreed", stats.requests ? percent(without) : "–", "answered without reasoning"),
    tile("median time", totals.length ? seconds((totals[(totals.length - 1) >> 1] + totals[totals.length >> 1]) / 2) : "–", `of the last ${totals.length}`),
    tile("saved, estimated", ...saved(stats.saved_s)),
    tile("tokens generated", sum(written).toLocaleString("en"), roles.map((role, index) => `${written[index].toLocaleString("en")} ${role}`).join(", ")),
    ...(stats.cost ? [tile("cost", stats.cost.total.toPrecision(3), "of all calls, by the prices of the configuration")] : []),
    tile("failures", sum(Object.values(stats.failures)).toLocaleString("en"), counted(stats.failures)),
    ...(refused ? [tile("refused", refused.toLocaleString("en"), counted(stats.refusals))] : []),
  );
}

// --- the last requests -----------------------------------------------------------------------------------------------

const drawn = new Map();

function drawnRequest(request) {
  const told = make("p", { className: "reason", textContent: `${request.strategy}: ${request.reason}` });
  const when = new Date(request.at * 1000).toLocaleTimeString();
  const who = make("span", { className: "who" }, make("strong", { textContent: request.route }), ` ${when}`, make("span", { textContent: ` ${request.model}` }));
  const took = make("span", { className: "time", textContent: seconds(request.total_s) });
  return make("details", {}, make("summary", { className: "request" }, who, lanes(request.calls, request.alone_s), took), told, table(request.calls));
}

/** A request that is over does not change: its element stays, open or focused as it may be. */
function requests(recent) {
  const shown = recent.slice(0, SHOWN);
  const whole = Math.max(...shown.map((request) => Math.max(request.total_s, request.alone_s ?? 0)), 1e-6);
  const ids = new Set(shown.map((request) => request.id));
  for (const [id, node] of drawn) if (!ids.has(id)) { node.remove(); drawn.delete(id); }
  for (const request of [...shown].reverse()) {
    if (drawn.has(request.id)) continue;
    drawn.set(request.id, drawnRequest(request));
    at("requests").prepend(drawn.get(request.id));
  }
  at("requests").style.setProperty("--whole", whole);
  at("no-requests").hidden = shown.length > 0;
  at("scale").hidden = !shown.length;
  at("scale").lastChild.textContent = seconds(whole);
}

// --- routes over time ------------------------------------------------------------------------------------------------

function chart(minutes) {
  const total = (minute) => sum(Object.values(minute.routes));
  const most = Math.max(...minutes.map(total), 1);
  const clock = (minute) => new Date(minute.at * 1000).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" });
  at("chart").replaceChildren(...minutes.map((minute) => {
    const there = ROUTES.filter((route) => minute.routes[route]);
    const title = `${clock(minute)}: ${there.map((route) => `${minute.routes[route]} ${route}`).join(", ") || "none"}`;
    return make("span", { title }, ...there.map((route) => {
      const part = make("i", { className: route });
      part.style.height = `${(100 * minute.routes[route]) / most}%`;
      return part;
    }));
  }));
  const all = sum(minutes.map(total));
  at("most").textContent = all ? `most in a minute: ${most}` : "no requests";
  at("chart").setAttribute("aria-label", `${all} requests in the last hour by route and minute; at most ${most} in a minute`);
  const busy = minutes.filter(total).reverse();
  const used = ROUTES.filter((route) => busy.some((minute) => minute.routes[route]));
  const lines = busy.map((minute) => [make("td", { textContent: clock(minute) }), ...used.map((route) => String(minute.routes[route] ?? 0))]);
  at("by-minute").hidden = !all;
  at("minutes").replaceChildren(...rows(["minute", ...used], lines, 1));
}

function routes(stats) {
  chart(stats.minutes);
  const counts = { ...stats.routes, failed: sum(Object.values(stats.failures)) };
  const all = sum(Object.values(counts));
  const hour = (route) => String(sum(stats.minutes.map((minute) => minute.routes[route] ?? 0)));
  const lines = ROUTES.filter((route) => counts[route]).map((route) => [
    make("td", {}, make("i", { className: `key ${route}` }), route), hour(route), String(counts[route]), percent(counts[route] / all),
  ]);
  at("routes").replaceChildren(...(lines.length ? rows(["route", "last hour", "in all", "share"], lines, 1) : []));
}

// --- servers, false accepts ------------------------------------------------------------------------------------------

const STATES = { closed: "● up", half_open: "◐ on trial", open: "✕ down" };

function servers(upstreams) {
  if (!upstreams.length) return at("servers").replaceChildren(make("p", { className: "empty", textContent: "The models run in this process." }));
  const several = new Set(upstreams.map((server) => server.pair)).size > 1;
  const lines = upstreams.map((server) => {
    const state = make("td", { textContent: STATES[server.state], className: server.state === "closed" ? "ok" : "down" });
    const alone = upstreams.filter((other) => other.pair === server.pair && other.role === server.role).length === 1;
    const name = make("td", { className: "long" }, `${several ? `${server.pair}, ` : ""}${server.role}${alone ? "" : ` ${server.replica + 1}`} `, make("span", { className: "empty", textContent: server.model }));
    return [name, state, String(server.running), String(server.waiting)];
  });
  at("servers").replaceChildren(make("table", {}, ...rows(["server", "state", "running", "waiting"], lines, 2)));
}

function falseAccepts(audit) {
  at("interval").hidden = at("interval-axis").hidden = !audit.checked;
  at("audit").className = audit.alarming ? "down" : "empty";
  const waiting = audit.waiting ? ` ${audit.waiting} wait for a quiet moment.` : "";
  if (!audit.checked) {
    at("audit").textContent = `No agreed answer has been looked at again.${waiting || " A share under [audit] in cuecard.toml sets how many are."}`;
    return;
  }
  const interval = `95% interval ${percent(audit.low)} to ${percent(audit.high)}`;
  const end = [0.1, 0.25, 0.5].find((value) => audit.high <= value) ?? 1;
  const [range, point] = at("interval").children;
  range.style.left = percent(audit.low / end);
  range.style.width = percent((audit.high - audit.low) / end);
  point.style.left = percent(audit.rate / end);
  at("interval").className = audit.alarming ? "alarming" : "";
  at("interval").setAttribute("aria-label", `${percent(audit.rate)}, ${interval}`);
  at("interval-axis").lastChild.textContent = percent(end);
  at("audit").textContent = `${percent(audit.rate)} (${interval}): reasoning gave another answer to ${audit.differed} of ${audit.checked} agreed requests that were looked at again.${audit.alarming ? " That is too many." : ""}${waiting}`;
}

// --- live ------------------------------------------------------------------------------------------------------------

let timer = 0;
function soon(ms) {
  clearTimeout(timer);
  timer = setTimeout(refresh, ms);
}

/** Without a key that is known nothing more is asked until one is given; nor while nobody looks. */
async function refresh() {
  if (document.hidden) return;
  try {
    const answer = await fetch("stats", { headers: headers() });
    if (answer.ok) {
      const stats = await answer.json();
      tiles(stats); requests(stats.recent); routes(stats); servers(stats.upstreams); falseAccepts(stats.audit);
      if (!at("model").options.length) await models();
      state("live");
    } else {
      state(await problem(answer), true);
      if (answer.status === 401) { at("access").open = true; return; }
    }
    soon(Math.max(POLL_MS, 1000 * (answer.headers.get("retry-after") ?? 0)));
  } catch (error) {
    state(`not connected: ${error.message}`, true);
    soon(POLL_MS);
  }
}

function state(text, bad = false) {
  if (at("state").textContent !== text) at("state").textContent = text;
  at("state").className = bad ? "bad" : "";
}

at("key").value = sessionStorage.getItem("cuecard key") ?? "";
at("key").addEventListener("change", () => {
  sessionStorage.setItem("cuecard key", at("key").value);
  soon(0);
});
document.addEventListener("visibilitychange", () => soon(0));
document.addEventListener("answered", () => soon(0));
refresh();
