// The settings of the view: the slider, labels on and off, boxes and words on and off.

import { server } from "./api.js";
import { toneOf } from "./colours.js";
import { button, make, percent } from "./elements.js";
import { countLabels, view } from "./view.js";

const $ = (id) => document.getElementById(id);
const slider = $("confidence");
let heard = {};

/** Set who hears of the view: `changed()` while it does, `set()` once it has. */
export function startFilters(ears) {
  heard = ears;
  for (const what of ["boxes", "labels"]) {
    $(`show-${what}`).onchange = ({ target }) => {
      view[what] = target.checked;
      heard.changed();
    };
  }
  if (!slider) return;
  $("confidence-field").hidden = false;
  slider.oninput = () => setLeast(Number(slider.value));
  slider.onchange = heard.set;
  setLeast(server.usual);
}

/** Show from a confidence on. */
export function setLeast(least) {
  if (!slider) return;
  slider.value = least;
  view.least = Number(slider.value);
  $("confidence-shown").textContent = percent(view.least);
  slider.setAttribute("aria-valuetext", percent(view.least));
  heard.changed();
}

/** Switch labels off, all others on. */
export function switchOff(labels) {
  view.off = new Set(labels);
  heard.changed();
}

function toggle(label) {
  const off = new Set(view.off);
  if (!off.delete(label)) off.add(label);
  switchOff(off);
}

/** Show a chip for each label of some answers; the focus stays where it is. */
export function showLabels(pairs) {
  const counts = countLabels(pairs);
  const focused = $("label-chips").contains(document.activeElement) ? document.activeElement.dataset.label : null;
  const chips = counts.map(([label, count]) => {
    const swatch = make("span", { className: `swatch ${toneOf(label)}` });
    const chip = button(swatch, () => toggle(label), { className: "label-chip", "aria-pressed": !view.off.has(label) });
    chip.append(label, make("span", { className: "hint" }, ` ${count}`));
    chip.dataset.label = label;
    return chip;
  });
  if (counts.some(([label]) => view.off.has(label))) chips.push(button("All labels", () => switchOff([])));
  else if (counts.length > 1) chips.push(button("No labels", () => switchOff(counts.map(([label]) => label))));
  $("label-chips").replaceChildren(...chips);
  $("filters").hidden = !counts.length;
  if (focused !== null) (chips.find(({ dataset }) => dataset.label === focused) ?? chips[0])?.focus();
}
