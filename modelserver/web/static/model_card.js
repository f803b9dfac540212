// What is known of the model that is chosen, and what of it may spoil its answers.

import { credentials, server } from "./api.js";
import { make } from "./elements.js";
import { token } from "./token.js";

const DIGEST = 12; // characters of a digest that are shown
const GUESS = "guessed: nothing tells how pixels are scaled";

const $ = (id) => document.getElementById(id);
let shown = ""; // what the card is made of

/** Show what is known of one model; of several, or of none, nothing. */
export async function showCard(models) {
  const [model] = models;
  const key = models.length === 1 && (model.state ?? "") !== "LOADING" ? `${model.id} ${model.state}` : "";
  if (key === shown) return;
  shown = key;
  if (!key) return hide();
  let report;
  try {
    const path = `${server.root}/models/${encodeURIComponent(model.name)}?kind=${model.kind}`;
    const answer = await fetch(path, { headers: { Accept: "application/json", ...credentials(token()) } });
    report = answer.ok ? await answer.json() : null;
  } catch {
    report = null; // the list of models tells that the server is away
  }
  if (key !== shown) return;
  if (!report?.findings) return hide();
  showFacts(report);
  showFindings(report.findings);
}

function hide() {
  $("model-card").hidden = true;
  $("findings").hidden = true;
}

function showFacts(report) {
  const { input_size: size, labels, device, digest, scaling, load_ms: took } = report;
  const facts = {
    Input: size ? `${size[0]} × ${size[1]} (height × width)` : "photos of any size",
    Labels: labels,
    Scaling: scaling === "default" ? GUESS : scaling && `told by its ${scaling}`,
    Device: device,
    Loaded: took === null ? null : `in ${(took / 1000).toFixed(1)} s`,
    Digest: digest?.slice(0, DIGEST),
  };
  const known = Object.entries(facts).filter(([, fact]) => fact !== null && fact !== undefined);
  const made = known.map(([name, fact]) => make("div", {}, make("dt", {}, name), make("dd", {}, String(fact))));
  const link = make("a", { href: `${server.root}/models/${encodeURIComponent(report.name)}?kind=${report.kind}` }, "All of it");
  Object.assign(link, { target: "_blank", rel: "noopener" });
  $("model-facts").replaceChildren(...made);
  $("model-more").replaceChildren(...(server.wantsToken ? [] : [link])); // a link carries no token
  $("model-card").hidden = !known.length;
}

/** What stands as a hint beside the model already is not said twice. */
const HINTED = ["scaling-guessed", "size-guessed"];

function showFindings(findings) {
  const made = findings
    .filter(({ level, code }) => level !== "note" && !HINTED.includes(code))
    .map(({ message, fix }) => make("li", {}, message, fix ? `: ${fix}.` : "."));
  $("findings").replaceChildren(...made);
  $("findings").hidden = !made.length;
}
