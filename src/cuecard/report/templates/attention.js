"use strict";
(() => {
  const looks = JSON.parse(document.getElementById("looks").textContent);
  const at = (id) => document.getElementById(id);
  const options = (id, names, kept) => {
    const select = at(id);
    const before = select.value;
    select.replaceChildren(...names.map(([value, text]) => new Option(text, value)));
    select.value = kept && names.some(([value]) => String(value) === before) ? before : String(names[0][0]);
  };
  const numbered = (count, all) => [[0, all], ...Array.from({ length: count - 1 }, (_, i) => [i + 1, String(i)])];
  const percent = (share, digits = 1) => `${(100 * share).toFixed(digits)}%`;
  const bytes = new WeakMap();
  const rows = (shades) => {
    if (!bytes.has(shades)) bytes.set(shades, Uint8Array.from(atob(shades.rows), (c) => c.charCodeAt(0)));
    return bytes.get(shades);
  };

  // a thumbnail, or the text in its place
  const picture = ({ source, text }) => {
    const shown = document.createElement(source ? "img" : "span");
    if (source) Object.assign(shown, { src: source, alt: text });
    else Object.assign(shown, { className: "soft", textContent: text });
    return shown;
  };

  const question = () => looks[Number(at("question").value)];
  const shades = () => question().shades[at("condition").value];

  function ask() {
    const look = question();
    at("asked").textContent = look.asked;
    at("images").replaceChildren(...look.images.map(picture));
    options("condition", Object.keys(look.shades).map((name) => [name, name]), true);
    at("before").disabled = at("question").value === "0";
    at("after").disabled = Number(at("question").value) === looks.length - 1;
    answer();
  }

  function answer() {
    const [, layers, heads] = shades().shape;
    options("layer", numbered(layers, "all, mean"), true);
    options("head", numbered(heads, "all, mean"), true);
    at("answered").textContent = shades().answered;
    shade();
  }

  function shade() {
    const some = shades();
    const [, layers, heads] = some.shape;
    const [set, layer, head] = ["queries", "layer", "head"].map((id) => Number(at(id).value));
    const row = (set * layers + layer) * heads + head;
    const count = some.pieces.length;
    const values = rows(some).subarray(row * count, (row + 1) * count);
    const order = Array.from(values.keys()).sort((a, b) => values[b] - values[a]);
    const carrying = new Set(order.slice(0, some.carrying[row]));
    at("card").replaceChildren(
      ...some.pieces.map((piece, place) => {
        const token = document.createElement("span");
        token.textContent = piece;
        token.style.setProperty("--s", (values[place] / 255).toFixed(3));
        token.title = percent((values[place] / 255) * some.most[row], 2);
        if (carrying.has(place)) token.className = "key";
        return token;
      }),
    );
    const few = percent(some.carrying[row] / count, 0);
    at("status").textContent =
      `${percent(some.mass[row])} of the attention is on these ${count} tokens; underlined are the ` +
      `${some.carrying[row]} (${few}) that carry ${at("browser").dataset.delta} of that.`;
    at("most").textContent = percent(some.most[row]);
  }

  function step(by) {
    const next = Number(at("question").value) + by;
    if (next < 0 || next >= looks.length) return;
    at("question").value = String(next);
    ask();
  }

  options("question", looks.map((look, place) => [place, look.name]), false);
  options("queries", [[0, "first token's"], [1, "all of the answer"]], false);
  at("queries").value = "1";
  at("question").addEventListener("change", ask);
  at("condition").addEventListener("change", answer);
  for (const id of ["queries", "layer", "head"]) at(id).addEventListener("change", shade);
  at("before").addEventListener("click", () => step(-1));
  at("after").addEventListener("click", () => step(1));
  at("card").addEventListener("keydown", (event) => {
    if (event.key === "ArrowLeft") step(-1);
    if (event.key === "ArrowRight") step(1);
  });
  document.querySelector("#browser .controls").hidden = false;
  ask();
})();
