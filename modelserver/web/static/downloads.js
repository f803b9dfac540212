// All answers that are shown, as files: JSON as the server writes it, CSV and COCO as the
// Python client does.

import { detects } from "./api.js";
import { chosenModels } from "./model_list.js";
import { shots } from "./photos.js";
import { saveFile } from "./picture.js";
import { answerOf } from "./questions.js";
import { seenOf } from "./view.js";

// The client's, and the model.
const COLUMNS = "file class label confidence x1 y1 x2 y2 width height error model".split(" ");

const $ = (id) => document.getElementById(id);

/** Have the buttons save what is shown of the answers to all photos. */
export function offerDownloads() {
  $("save-json").onclick = () => save("json", "application/json", JSON.stringify(json(), null, 2));
  $("save-csv").onclick = () => save("csv", "text/csv", csv());
  if (!$("save-coco")) return;
  $("save-coco").onclick = () => {
    for (const model of chosenModels().filter(detects)) {
      save("coco.json", "application/json", JSON.stringify(coco(model)), `-${model.name}`);
    }
  };
}

function save(ending, type, text, more = "") {
  saveFile(`modelserver${more}.${ending}`, new Blob([text], { type }));
}

/** Each photo with each model, file by file, as a request for several is answered. */
function pairs(models = chosenModels()) {
  return shots.flatMap((shot) => models.map((model) => [shot, model, answerOf(shot, model)]));
}

const wrongOf = (answer) =>
  answer?.state === "failed" ? `${answer.title}: ${answer.detail}` : "There is no answer yet.";

function json() {
  const results = pairs().map(([shot, model, answer]) => {
    const begin = { file: shot.name, model: model.name };
    if (answer?.state !== "done") return { ...begin, error: { title: "No answer", detail: wrongOf(answer) } };
    return detects(model) ? { ...begin, detections: seenOf(model, answer) } : { ...begin, ...answer.body };
  });
  return { results };
}

function csv() {
  const rows = pairs().flatMap(([shot, model, answer]) => {
    const [width, height] = shot.size ?? [];
    const begin = { file: shot.name, width, height, model: model.name };
    if (answer?.state !== "done") return [{ ...begin, error: wrongOf(answer) }];
    const items = seenOf(model, answer).map(({ bounding_box: box = [], ...item }) => {
      const [x1, y1, x2, y2] = box;
      return { ...begin, ...item, x1, y1, x2, y2 };
    });
    return items.length ? items : [begin];
  });
  const lines = rows.map((row) => COLUMNS.map((name) => cell(row[name])).join(","));
  return `${[COLUMNS.join(","), ...lines].join("\r\n")}\r\n`;
}

/** A field of RFC 4180; a spreadsheet must not take a name for a formula. */
function cell(value) {
  const text = String(value ?? "");
  const safe = typeof value === "string" && /^[=+\-@\t\r]/.test(text) ? `'${text}` : text;
  return /[",\r\n]/.test(safe) ? `"${safe.replaceAll('"', '""')}"` : safe;
}

function coco(model) {
  const done = pairs([model]).filter(([shot, , answer]) => answer?.state === "done" && shot.size);
  const names = new Map();
  const annotations = [];
  const images = done.map(([shot, , answer], index) => {
    const [width, height] = shot.size;
    for (const { class: id, label, confidence, bounding_box: box } of seenOf(model, answer)) {
      const [x1, y1, x2, y2] = box;
      names.set(id, label);
      const [x, y, w, h] = [x1 * width, y1 * height, (x2 - x1) * width, (y2 - y1) * height];
      annotations.push({
        id: annotations.length + 1,
        image_id: index + 1,
        category_id: id,
        bbox: [x, y, w, h],
        area: w * h,
        iscrowd: 0,
        score: confidence,
      });
    }
    return { id: index + 1, file_name: shot.name, width, height };
  });
  const categories = [...names].sort(([a], [b]) => a - b).map(([id, name]) => ({ id, name }));
  const failures = pairs([model])
    .filter((pair) => !done.some(([shot]) => shot === pair[0]))
    .map(([shot, , answer]) => ({ file_name: shot.name, error: wrongOf(answer) }));
  return { images, categories, annotations, failures };
}
