// From answers to what is shown of them: a photo with its boxes, a table, times, JSON.

import { detects, server } from "./api.js";
import { toneOf } from "./colours.js";
import { button, copyText, make, milliseconds, NONE, objects, percent } from "./elements.js";
import { pictureOf, placeTags } from "./picture.js";
import { isSeen, seenOf, unseenOf, view } from "./view.js";

const STAGES = ["wait", "decode", "queue", "run", "post", "other", "network"];
let jsonOpen = false;

/** An answer in a word. */
export function summary(model, answer) {
  if (!answer || ["waiting", "loading"].includes(answer.state)) return "…";
  if (answer.state === "failed") return "!";
  if (answer.none) return "none";
  if (detects(model)) return String(seenOf(model, answer).length);
  return answer.items[0]?.label ?? "–";
}

/** An answer in a sentence, for who hears the page. */
export function sentenceOf(shot, model, answer) {
  const begin = `${shot.name}, ${model.title}: `;
  if (answer.state === "failed") return `${begin}${answer.title}. ${answer.detail}`;
  if (answer.state === "loading") return begin + waitingFor(model);
  const found = seenOf(model, answer);
  const named = found.slice(0, 5).map(({ label, confidence }) => {
    return confidence === undefined ? label : `${label} ${percent(confidence)}`;
  });
  const first = detects(model) ? `${objects(found.length)}. ` : answer.none ? `${NONE} ` : "";
  return `${begin}${first}${named.join(", ")}`;
}

const waitingFor = ({ title }) => `${title} is loading. Your photo is asked about as soon as it is ready.`;

/** A shot with one model's answer to it; `retry` is what the button does. */
export function resultOf(shot, model, answer, retry) {
  const head = make("h3", { tabIndex: -1 }, model.title);
  const side = make("div", { className: "side" }, head);
  const node = make("article", { className: "result card" }, pictureOf(shot, model, answer), side);
  node.dataset.model = model.id;
  if (answer.state === "waiting") {
    side.append(make("p", { className: "asking" }, "Asking the server …"));
  } else if (answer.state === "loading") {
    side.append(make("p", { className: "asking" }, waitingFor(model)));
  } else if (answer.state === "failed") {
    side.append(problemOf(answer, retry));
  } else {
    const words = answer.none ? NONE : "";
    side.append(make("p", { className: "count" }, words));
    side.append(make("div", { className: "rows" }, tableOf(shot, model, answer)));
    side.append(...timingsOf(answer.timings));
    node.append(jsonOf(model, answer));
    node.onclick = (event) => togglePin(node, event);
    for (const type of ["mouseover", "mouseout", "mouseleave", "focusin", "focusout"]) {
      node.addEventListener(type, () => mark(node));
    }
  }
  return node;
}

/** Hide in one result what is not to be seen. */
export function applyView(node, model, answer) {
  node.classList.toggle("no-boxes", !view.boxes);
  node.classList.toggle("no-labels", !view.labels);
  if (answer.state !== "done" || !detects(model)) return;
  for (const one of node.querySelectorAll("[data-index]")) {
    one.hidden = !isSeen(model, answer.items[one.dataset.index]);
  }
  const count = seenOf(model, answer).length;
  const { below, off } = unseenOf(model, answer);
  const more = (below ? `, ${below} below` : "") + (off ? `, ${off} switched off` : "");
  const words = `${objects(count)} at ${percent(view.least)} or above${more}`;
  node.querySelector(".count").textContent = words[0].toUpperCase() + words.slice(1);
  node.querySelector("table").hidden = !count;
  placeTags(node.querySelector(".boxes"));
}

function problemOf(answer, retry) {
  const node = make("div", { className: "problem" });
  node.append(make("p", {}, make("strong", {}, answer.title)), make("p", {}, answer.detail));
  if (answer.type) {
    const link = { href: server.root + answer.type, target: "_blank", rel: "noopener" };
    node.append(make("p", {}, make("a", link, "What this means")));
  }
  if (answer.planned) node.append(make("p", {}, `It is tried again in ${answer.after} s.`));
  if (answer.again) node.append(button(answer.planned ? "Try now" : "Try again", retry));
  return node;
}

function tableOf(shot, model, { items }) {
  const heads = detects(model) ? ["Label", "Confidence", "Box in pixels"] : ["Class", "Confidence"];
  const row = make("tr", {}, ...heads.map((head) => make("th", { scope: "col" }, head)));
  const caption = `What ${model.title} sees in ${shot.name}`;
  return make(
    "table",
    {},
    make("caption", { className: "unseen" }, caption),
    make("thead", {}, row),
    make("tbody", {}, ...items.map(rowOf)),
  );
}

function rowOf({ label, confidence, bounding_box: box }, index) {
  const swatch = make("span", { className: `swatch ${toneOf(label)}` });
  // A button, so that the keyboard and a finger find its box as the mouse does.
  const name = box ? button(label, null, { className: "pin", "aria-pressed": "false" }) : label;
  const row = make("tr", {}, make("th", { scope: "row" }, swatch, name));
  const bar = make("span", { className: "meter" });
  bar.style.setProperty("--share", confidence ?? 0);
  const words = confidence === undefined ? "not told" : percent(confidence);
  row.append(make("td", {}, words, bar));
  if (box) row.append(make("td", { className: "where", "data-box": JSON.stringify(box) }));
  Object.assign(row.dataset, { confidence: confidence ?? 1, index });
  return row;
}

/** Mark a box and its row while the mouse or the focus is on one, or one is pinned. */
function mark(node) {
  const over = node.querySelector("[data-index]:hover, [data-index]:has(:focus-visible)");
  const index = over?.dataset.index ?? node.dataset.pinned;
  node.classList.toggle("marks", index !== undefined);
  for (const one of node.querySelectorAll("[data-index]")) {
    one.classList.toggle("on", one.dataset.index === index);
  }
}

/** Keep a box and its row marked after a click on either, until the next one. */
function togglePin(node, { target }) {
  const one = target.closest("[data-index]");
  if (!one && !target.closest(".picture")) return;
  const index = one?.dataset.index;
  if (!one || node.dataset.pinned === index) delete node.dataset.pinned;
  else node.dataset.pinned = index;
  for (const pin of node.querySelectorAll(".pin")) {
    const pinned = pin.closest("tr").dataset.index === node.dataset.pinned;
    pin.setAttribute("aria-pressed", pinned);
  }
  mark(node);
  const row = node.querySelector(`tr[data-index="${node.dataset.pinned}"]`);
  if (one?.classList.contains("box") && row) scrollTo(row.closest(".rows"), row);
}

/** Scroll a list to a row of it, and nothing else. */
function scrollTo(list, row) {
  const [inner, outer] = [row.getBoundingClientRect(), list.getBoundingClientRect()];
  if (inner.top < outer.top || inner.bottom > outer.bottom) {
    list.scrollTop += inner.top - outer.top - outer.height / 3;
  }
}

export function timingsOf(stages) {
  const names = STAGES.filter((name) => name in stages);
  const bar = make("div", { className: "stages", "aria-hidden": "true" });
  const list = make("dl", { className: "timings" });
  for (const name of names) {
    const part = make("span", { className: `stage-${name}` });
    part.style.flexGrow = stages[name];
    bar.append(part);
    const key = make("span", { className: `key stage-${name}` });
    const number = make("dd", {}, milliseconds(stages[name]));
    list.append(make("div", {}, make("dt", {}, key, name), number));
  }
  const sum = names.reduce((all, name) => all + stages[name], 0);
  return [make("h4", {}, `Answered in ${milliseconds(sum)}`), bar, list];
}

function jsonOf(model, { body }) {
  const rows = detects(model) ? body.map((one) => `\n  ${JSON.stringify(one)}`) : [];
  const list = `[${rows.join(",")}${rows.length ? "\n" : ""}]`;
  const text = detects(model) ? list : JSON.stringify(body, null, 2);
  const code = make("pre", { tabIndex: 0, role: "region", "aria-label": "The answer as JSON" }, text);
  const copy = button("Copy", ({ currentTarget }) => copyText(code, currentTarget));
  const node = make("details", { open: jsonOpen }, make("summary", {}, "JSON"), code, copy);
  node.ontoggle = () => (jsonOpen = node.open);
  return node;
}
