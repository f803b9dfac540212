// A table over many photos: a row a photo, filtered by label.

import { detects } from "./api.js";
import { make, NONE } from "./elements.js";
import { chosenModels } from "./model_list.js";
import { choose, chosenShot, shots } from "./photos.js";
import { answerOf } from "./questions.js";
import { seenOf } from "./view.js";

const LISTED = 6; // labels of a cell

const $ = (id) => document.getElementById(id);
let due = false;

/** Have the table follow its filter. */
export const offerOverview = () => ($("label-filter").onchange = showOverview);

/** Make the table anew before the next frame: a hundred answers may come at once. */
export function overviewChanged() {
  if (due) return;
  due = true;
  requestAnimationFrame(() => {
    due = false;
    showOverview();
  });
}

function showOverview() {
  $("overview").hidden = shots.length < 2;
  if (shots.length < 2) return $("overview-table").replaceChildren();
  const models = chosenModels();
  const wanted = showFilter(models);
  const rows = shots.filter((shot) => !wanted || models.some((model) => labelsOf(shot, model).has(wanted)));
  const heads = ["Photo", ...models.map(({ title }) => title)];
  const head = make("tr", {}, ...heads.map((words) => make("th", { scope: "col" }, words)));
  const caption = make("caption", { className: "unseen" }, "What each model sees in each photo");
  const body = make("tbody", {}, ...rows.map((shot) => rowOf(shot, models)));
  const place = $("overview-table");
  const focused = place.contains(document.activeElement) ? document.activeElement.title : "";
  place.replaceChildren(make("table", {}, caption, make("thead", {}, head), body));
  if (focused) [...place.querySelectorAll("button")].find(({ title }) => title === focused)?.focus();
  $("overview-count").textContent = wanted ? `${rows.length} of ${shots.length} photos` : `${shots.length} photos`;
}

/** Offer the labels there are; gives the one that is wanted, if any. */
function showFilter(models) {
  const select = $("label-filter");
  const wanted = select.value;
  const counts = new Map();
  for (const shot of shots) {
    const found = new Set(models.flatMap((model) => [...labelsOf(shot, model).keys()]));
    for (const label of found) counts.set(label, (counts.get(label) ?? 0) + 1);
  }
  if (wanted && !counts.has(wanted)) counts.set(wanted, 0);
  const listed = [...counts].sort(([a], [b]) => (a < b ? -1 : 1));
  const options = listed.map(([label, count]) => make("option", { value: label }, `${label} (${count})`));
  select.replaceChildren(make("option", { value: "" }, "any label"), ...options);
  select.value = wanted;
  return wanted;
}

/** Each label that a model sees in a photo, with how often. */
function labelsOf(shot, model) {
  const answer = answerOf(shot, model);
  if (answer?.state !== "done") return new Map();
  const best = answer.none ? [] : answer.items.slice(0, 1);
  const labels = (detects(model) ? seenOf(model, answer) : best).map(({ label }) => label);
  const counts = new Map();
  for (const label of labels) counts.set(label, (counts.get(label) ?? 0) + 1);
  return counts;
}

function rowOf(shot, models) {
  const name = make("button", { type: "button", className: "link", title: shot.name, onclick: () => show(shot) }, shot.name);
  const cells = models.map((model) => make("td", {}, wordsOf(shot, model)));
  const row = make("tr", {}, make("th", { scope: "row" }, name), ...cells);
  row.classList.toggle("on", shot === chosenShot());
  return row;
}

function show(shot) {
  choose(shot);
  $("shown").scrollIntoView();
  shot.button.focus({ preventScroll: true });
}

function wordsOf(shot, model) {
  const answer = answerOf(shot, model);
  if (!answer || answer.state === "waiting") return "…";
  if (answer.state === "loading") return "waits for the model";
  if (answer.state === "failed") return answer.title;
  if (answer.none) return NONE;
  const counts = [...labelsOf(shot, model)];
  const words = counts.slice(0, LISTED).map(([label, count]) => (count > 1 ? `${count} × ${label}` : label));
  const more = counts.length > LISTED ? ` and ${counts.length - LISTED} more` : "";
  return words.join(", ") + more || "–";
}

