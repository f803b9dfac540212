// From answers to elements. All that the server or a file says becomes text nodes and
// attributes, never markup; positions and sizes go through CSSOM, which the CSP allows.

import { detects, server } from "./api.js";

const TONES = 12; // as many as page.css has
const STAGES = ["wait", "decode", "queue", "run", "post", "other", "network"];
const tones = new Map(); // label to number of its colour

/** Make an element; strings among its children become text. */
export function make(tag, properties = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name in node) node[name] = value;
    else node.setAttribute(name, value);
  }
  node.append(...children);
  return node;
}

export const percent = (share) => `${Math.round(share * 100)} %`;
/** The words for an answer of independent classes, none of which is sure enough. */
const NONE = "None at 50 % or above.";
export const objects = (count) => `${count || "no"} object${count === 1 ? "" : "s"}`;
const milliseconds = (ms) => `${ms < 10 ? ms.toFixed(1) : Math.round(ms)} ms`;

/** The items of an answer at or above a confidence, which is for detectors. */
export function shownOf(model, { items }, least) {
  return items.filter(({ confidence }) => !detects(model) || confidence >= least);
}

/** An answer in a word. */
export function summary(model, answer, least) {
  if (!answer || answer.state === "waiting") return "…";
  if (answer.state === "failed") return "!";
  if (answer.none) return "none";
  if (detects(model)) return String(shownOf(model, answer, least).length);
  return answer.items[0]?.label ?? "–";
}

/** An answer in a sentence, for who hears the page. */
export function sentenceOf(shot, model, answer, least) {
  const begin = `${shot.name}, ${model.title}: `;
  if (answer.state === "failed") return `${begin}${answer.title}. ${answer.detail}`;
  const found = shownOf(model, answer, least);
  const named = found.slice(0, 5).map(({ label, confidence }) => {
    return confidence === undefined ? label : `${label} ${percent(confidence)}`;
  });
  const first = detects(model) ? `${objects(found.length)}. ` : answer.none ? `${NONE} ` : "";
  return `${begin}${first}${named.join(", ")}`;
}

/** A colour's class for each label: the same all the time, the first twelve differ. */
function toneOf(label) {
  if (!tones.has(label)) tones.set(label, tones.size % TONES);
  return `tone-${tones.get(label)}`;
}

/** A shot with one model's answer to it; ``retry`` is what the button does. */
export function resultOf(shot, model, answer, retry, json) {
  for (const { label } of answer.items ?? []) toneOf(label); // the surest first
  const head = make("h3", { tabIndex: -1 }, model.title);
  const side = make("div", { className: "side" }, head);
  const picture = pictureOf(shot, model, answer);
  const node = make("article", { className: "result card" }, picture, side);
  node.dataset.model = model.id;
  if (answer.state === "waiting") {
    side.append(make("p", { className: "asking" }, "Asking the server …"));
  } else if (answer.state === "failed") {
    side.append(problemOf(answer, retry));
  } else {
    const words = answer.none ? NONE : "";
    side.append(make("p", { className: "count" }, words), tableOf(shot, model, answer));
    side.append(...timingsOf(answer.timings));
    node.append(jsonOf(model, answer, json));
  }
  return node;
}

function pictureOf(shot, model, answer) {
  const photo = make("img", { src: shot.url, alt: shot.name });
  const picture = make("div", { className: "picture" }, photo);
  photo.onload = () => {
    picture.style.setProperty("--ratio", photo.naturalWidth / photo.naturalHeight);
    const cells = picture.parentNode?.querySelectorAll("[data-box]") ?? [];
    for (const cell of cells) cell.textContent = pixels(JSON.parse(cell.dataset.box), photo);
  };
  photo.onerror = () => {
    const words = "This browser cannot show the file as a picture.";
    picture.replaceChildren(make("p", { className: "hint" }, words));
  };
  if (detects(model) && answer.state === "done") {
    const boxes = answer.items.map(boxOf).reverse(); // the surest lies on top
    picture.append(make("div", { className: "boxes", "aria-hidden": "true" }, ...boxes));
  }
  return picture;
}

/** A box in pixels; the browser knows the size of the photo as it is seen. */
function pixels([x1, y1, x2, y2], { naturalWidth: w, naturalHeight: h }) {
  const [left, top, right, bottom] = [x1 * w, y1 * h, x2 * w, y2 * h].map(Math.round);
  return `${left}, ${top} – ${right}, ${bottom}`;
}

function boxOf({ label, confidence, bounding_box: [x1, y1, x2, y2] }, index) {
  const words = make("span", { className: "chip" }, `${label} ${percent(confidence)}`);
  const box = make("div", { className: `box ${toneOf(label)}` }, words);
  box.classList.toggle("low", y1 < 0.08); // no room above it
  box.classList.toggle("right", x1 > 0.6);
  box.style.left = `${x1 * 100}%`;
  box.style.top = `${y1 * 100}%`;
  box.style.width = `${(x2 - x1) * 100}%`;
  box.style.height = `${(y2 - y1) * 100}%`;
  Object.assign(box.dataset, { confidence, index });
  return box;
}

function problemOf(answer, retry) {
  const node = make("div", { className: "problem" });
  node.append(make("p", {}, make("strong", {}, answer.title)), make("p", {}, answer.detail));
  if (answer.type) {
    const link = { href: server.root + answer.type };
    node.append(make("p", {}, make("a", link, "What this means")));
  }
  if (answer.planned) node.append(make("p", {}, `It is tried again in ${answer.after} s.`));
  if (answer.again) {
    const words = answer.planned ? "Try now" : "Try again";
    node.append(make("button", { type: "button", onclick: retry }, words));
  }
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
  const row = make("tr", {}, make("th", { scope: "row" }, swatch, label));
  const bar = make("span", { className: "meter" });
  bar.style.setProperty("--share", confidence ?? 0);
  const words = confidence === undefined ? "not told" : percent(confidence);
  row.append(make("td", {}, words, bar));
  if (box) row.append(make("td", { className: "where", "data-box": JSON.stringify(box) }));
  Object.assign(row.dataset, { confidence: confidence ?? 1, index });
  return row;
}

function timingsOf(stages) {
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

function jsonOf(model, { body }, json) {
  const rows = detects(model) ? body.map((one) => `\n  ${JSON.stringify(one)}`) : [];
  const list = `[${rows.join(",")}${rows.length ? "\n" : ""}]`;
  const text = detects(model) ? list : JSON.stringify(body, null, 2);
  const code = make("pre", { tabIndex: 0, "aria-label": "The answer as JSON" }, text);
  const copy = make("button", { type: "button", onclick: () => json.copy(code) }, "Copy");
  const node = make("details", { open: json.open }, make("summary", {}, "JSON"), code, copy);
  node.ontoggle = () => (json.open = node.open);
  return node;
}

/** Have a box stand out while the mouse is on its row, and the other way round. */
export function highlight({ target, type }) {
  const one = target.closest("[data-index]");
  const place = `[data-index="${one?.dataset.index}"]`;
  for (const node of one?.closest(".result").querySelectorAll(place) ?? []) {
    node.classList.toggle("on", type === "mouseover");
  }
}
