// What of the answers is to be seen: from which confidence on, and of which labels.

import { detects } from "./api.js";

/** The settings of the view; `off` are labels that are switched off. */
export const view = { least: 0, off: new Set(), boxes: true, labels: true };

const isSure = (model, { confidence }) => !detects(model) || confidence >= view.least;

/** Whether an item of a model's answer is to be seen. */
export const isSeen = (model, item) =>
  isSure(model, item) && !(detects(model) && view.off.has(item.label));

/** The items of an answer that are to be seen, surest first. */
export const seenOf = (model, { items }) => items.filter((item) => isSeen(model, item));

/** How many items are below the confidence, and how many are switched off besides. */
export function unseenOf(model, { items }) {
  const sure = items.filter((item) => isSure(model, item));
  const off = sure.filter((item) => !isSeen(model, item)).length;
  return { below: items.length - sure.length, off };
}

/** Each label of some answers with how many items have it, the most frequent first. */
export function countLabels(pairs) {
  const counts = new Map();
  for (const [model, answer] of pairs) {
    if (!detects(model) || answer?.state !== "done") continue;
    for (const item of answer.items) {
      if (isSure(model, item)) counts.set(item.label, (counts.get(item.label) ?? 0) + 1);
    }
  }
  return [...counts].sort(([a, m], [b, n]) => n - m || (a < b ? -1 : 1));
}
