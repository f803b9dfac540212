// The page's settings in its address, so that a reload keeps them and a link shows them.

import { chooseModel } from "./model_list.js";
import { server } from "./api.js";
import { setLeast, switchOff } from "./filters.js";
import { view } from "./view.js";

const $ = (id) => document.getElementById(id);
const asked = new URLSearchParams(location.search);

/** Take the settings that the address has. */
export function readAddress() {
  const confidence = Number(asked.get("confidence"));
  if (confidence > 0 && confidence <= 1) setLeast(confidence);
  if (asked.has("without")) switchOff(asked.getAll("without"));
  readModel();
}

/** Choose the address's model, once it is there; somebody's own choice is left alone. */
export function readModel() {
  const model = asked.get("model");
  if (!model) return;
  chooseModel(model);
  if ($("model").value === model) asked.delete("model");
}

/** Write the settings into the address, without an entry in the history. */
export function writeAddress() {
  const now = new URLSearchParams();
  const model = $("model").value || asked.get("model");
  if (model) now.set("model", asked.get("model") ?? model);
  if ($("confidence") && view.least !== server.usual) now.set("confidence", view.least);
  for (const label of view.off) now.append("without", label);
  const query = now.size ? `?${now}` : "";
  if (query !== location.search) history.replaceState(null, "", location.pathname + query);
}
