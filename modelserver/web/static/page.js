// The page: its photos, its models, and its events. A shot is a photo with one answer
// a model; the results are made anew from the answers.

import { credentials, detects, evaluate, fieldsAt, server } from "./api.js";
import { offerCamera } from "./camera.js";
import { highlight, make, objects, percent, resultOf, sentenceOf, shownOf, summary } from "./elements.js";
import { identify, optionsOf, readModel, showGuesses } from "./model_list.js";
import { copyText, snippets } from "./snippets.js";
import { savedToken, saveToken } from "./storage.js";

const AT_A_TIME = 4; // requests; more would only wait in the server's queue
const MOST_SHOTS = 100;
const TRIES = 5;
const LOADING_MS = 2000;

const $ = (id) => document.getElementById(id);
const slider = $("confidence");
const json = { open: false, copy };
const shots = [];
const waiting = []; // [shot, model] to be asked
let asked = []; // ids of the models that are chosen
let models = identify(
  [...$("model").options].map(({ value: name, dataset }) => ({ name, ...dataset })),
);
let running = 0;
let chosen = null; // the shot that is shown
let token = "";

const least = () => (slider ? Number(slider.value) : 0);
const say = (words) => ($("live").textContent = words);

// The token.

function remember(value) {
  token = value;
  saveToken(value);
  $("token-used").hidden = !value;
}

function askForToken() {
  const words = token
    ? "The server does not take this token."
    : "This server asks for a token. It is kept until this tab is closed, and sent to this server only.";
  remember("");
  $("token-help").textContent = words;
  $("token-form").hidden = false;
  $("token").focus();
}

async function useToken(event) {
  event.preventDefault();
  remember($("token").value.trim());
  $("token").value = "";
  await refreshModels();
  if (!token) return;
  for (const shot of shots) {
    for (const model of models) if (answerOf(shot, model)?.status === 401) retry(shot, model);
  }
}

// Models.

async function refreshModels() {
  if (server.wantsToken && !token) return askForToken();
  let answer;
  try {
    answer = await fetch(`${server.root}/models`, { headers: credentials(token) });
  } catch {
    return say("The server cannot be reached.");
  }
  if (answer.status === 401) return askForToken();
  if (!answer.ok) return;
  models = identify((await answer.json()).models.map(readModel));
  $("token-form").hidden = true;
  listModels();
}

function listModels() {
  const before = { models: String(asked), value: $("model").value };
  const all = $("model").selectedOptions[0]?.dataset.all;
  const made = optionsOf(models);
  if (usable().length > 1) {
    made.push(make("option", { "data-all": "1" }, "All models, side by side"));
  }
  $("model").replaceChildren(...made);
  const options = [...$("model").options];
  const same = options.findIndex(({ value }) => value === before.value);
  const first = options.findIndex(({ disabled }) => !disabled);
  $("model").selectedIndex = all ? options.length - 1 : same < 0 ? first : same;
  $("no-models").hidden = models.length > 0;
  const words = models.map(({ title, slow }) => (slow ? `${title} runs on the CPU: ${slow} ` : ""));
  $("slow").textContent = words.join("");
  showGuesses(models, chosenModels());
  if (models.some(({ state }) => state === "LOADING")) setTimeout(refreshModels, LOADING_MS);
  asked = chosenModels().map(({ id }) => id);
  if (String(asked) !== before.models || $("same").hidden) modelChanged();
}

const usable = () => models.filter(({ state }) => state !== "FAILED");

function chosenModels() {
  const option = $("model").selectedOptions[0];
  if (!option || option.disabled) return [];
  return option.dataset.all ? usable() : models.filter(({ id }) => id === option.value);
}

function modelChanged() {
  asked = chosenModels().map(({ id }) => id);
  showGuesses(models, chosenModels());
  for (const shot of shots) askAll(shot);
  showResults();
  showSnippet();
}

// Photos.

function addFiles(files) {
  const photos = [...files].slice(0, MOST_SHOTS - shots.length);
  if (photos.length < files.length) say(`The page takes ${MOST_SHOTS} photos at most.`);
  if (!photos.length) return;
  const first = shots.length;
  photos.forEach(addShot);
  choose(shots[first]);
}

function addShot(file) {
  const url = URL.createObjectURL(file);
  const name = file.name || "photo";
  const shot = { file, name, url, answers: new Map(), stop: new AbortController() };
  shot.badge = make("span", { className: "badge" });
  shot.button = make(
    "button",
    { type: "button", className: "thumb", title: name, onclick: () => choose(shot) },
    make("img", { src: url, alt: "", decoding: "async", onerror: blank }),
    make("span", { className: "name" }, name),
    shot.badge,
  );
  const remove = make("button", { type: "button", className: "remove" }, make("span", {}, "×"));
  remove.setAttribute("aria-label", `Remove ${name}`);
  remove.onclick = () => removeShot(shot);
  shot.item = make("li", {}, shot.button, remove);
  shots.push(shot);
  $("strip").append(shot.item);
  askAll(shot);
}

/** Show an empty place for a photo that cannot be shown. */
const blank = ({ target }) => target.replaceWith(make("span", { className: "blank" }));

function removeShot(shot) {
  const index = shots.indexOf(shot);
  shots.splice(index, 1);
  shot.stop.abort();
  for (const { timer } of shot.answers.values()) clearTimeout(timer);
  URL.revokeObjectURL(shot.url);
  shot.item.remove();
  const next = shots[Math.min(index, shots.length - 1)] ?? null;
  choose(shot === chosen ? next : chosen);
  (next?.button ?? $("file")).focus();
}

function choose(shot) {
  chosen = shot;
  $("shown").hidden = !shot;
  $("drop").classList.toggle("small", shots.length > 0);
  for (const each of shots) each.button.setAttribute("aria-pressed", each === shot);
  showResults();
  showSnippet();
}

// Requests.

function askAll(shot) {
  for (const model of chosenModels()) if (!answerOf(shot, model)) ask(shot, model, 1);
  showBadge(shot);
}

const answerOf = (shot, model) => shot.answers.get(model.id);

function ask(shot, model, tries) {
  shot.answers.set(model.id, { state: "waiting", tries });
  waiting.push([shot, model]);
  askNext();
}

async function askNext() {
  if (running >= AT_A_TIME || !waiting.length) return;
  const [shot, model] = waiting.shift();
  running += 1;
  try {
    if (!shot.stop.signal.aborted) take(shot, model, await evaluate(shot, model, token));
  } catch (error) {
    if (error.name !== "AbortError") throw error; // its photo was removed
  } finally {
    running -= 1;
    askNext();
  }
}

function take(shot, model, answer) {
  const { tries } = answerOf(shot, model);
  shot.answers.set(model.id, { ...answer, tries });
  if (answer.status === 401) askForToken();
  if (answer.after && tries < TRIES) {
    const timer = setTimeout(() => retry(shot, model), answer.after * 1000);
    Object.assign(answerOf(shot, model), { planned: true, timer });
  }
  showBadge(shot);
  if (shot !== chosen || !asked.includes(model.id)) return;
  showResult(model);
  announce(shot, model);
}

function retry(shot, model) {
  const { timer, tries } = answerOf(shot, model);
  clearTimeout(timer);
  ask(shot, model, tries + 1);
  showBadge(shot);
  if (shot === chosen) showResult(model);
}

// Results.

function showBadge(shot) {
  const words = chosenModels().map((model) => summary(model, answerOf(shot, model), least()));
  shot.badge.textContent = words.join(" / ");
}

const announce = (shot, model) => say(sentenceOf(shot, model, answerOf(shot, model), least()));

function showResults() {
  const shown = chosen ? chosenModels() : [];
  $("results").className = shown.length > 1 ? "many" : "one";
  $("results").replaceChildren(...shown.map(newResult));
}

function newResult(model) {
  const shot = chosen;
  const answer = answerOf(shot, model);
  const node = resultOf(shot, model, answer, () => retry(shot, model), json);
  applyConfidence(node, model);
  return node;
}

function showResult(model) {
  const old = [...$("results").children].find((node) => node.dataset.model === model.id);
  if (!old) return;
  const inside = old.contains(document.activeElement);
  const fresh = newResult(model);
  old.replaceWith(fresh);
  if (inside) fresh.querySelector("h3").focus(); // the button that had it is gone
}

/** Hide what is below the slider, in one result. */
function applyConfidence(node, model) {
  const answer = answerOf(chosen, model);
  if (answer.state !== "done" || !detects(model)) return;
  for (const row of node.querySelectorAll("[data-confidence]")) {
    row.hidden = Number(row.dataset.confidence) < least();
  }
  const count = shownOf(model, answer, least()).length;
  const below = answer.items.length - count;
  const more = below ? `, ${below} below` : "";
  const words = `${objects(count)} at ${percent(least())} or above${more}`;
  node.querySelector(".count").textContent = words[0].toUpperCase() + words.slice(1);
  node.querySelector("table").hidden = !count;
}

function confidenceChanged() {
  $("confidence-shown").textContent = percent(least());
  slider.setAttribute("aria-valuetext", percent(least()));
  forEachResult(applyConfidence);
  shots.forEach(showBadge);
  showSnippet();
}

function confidenceSet() {
  forEachResult((_node, model) => {
    if (answerOf(chosen, model).state === "done") announce(chosen, model);
  });
}

function forEachResult(act) {
  for (const node of $("results").children) {
    const model = models.find(({ id }) => id === node.dataset.model);
    if (model) act(node, model);
  }
}

function showSnippet() {
  const [model] = chosenModels();
  $("same").hidden = !model;
  if (!model) return;
  const language = document.querySelector("input[name=language]:checked").value;
  const photo = chosen?.name ?? "photo.jpg";
  const facts = { model, photo, extra: fieldsAt(model, least()), secret: Boolean(token) };
  $("same-code").textContent = snippets[language](facts);
}

async function copy(node) {
  await copyText(node);
  say("Copied.");
}

// Events.

function onDrag(event) {
  if (!event.dataTransfer?.types.includes("Files")) return;
  event.preventDefault();
  $("drop").classList.toggle("over", event.type === "dragenter" || event.type === "dragover");
  if (event.type === "drop") addFiles(event.dataTransfer.files);
}

for (const type of ["dragenter", "dragover", "dragleave", "drop"]) {
  document.addEventListener(type, onDrag);
}
document.addEventListener("paste", ({ clipboardData }) => addFiles(clipboardData?.files ?? []));
$("ask").onsubmit = (event) => event.preventDefault();
$("file").multiple = true;
$("file").onchange = ({ target }) => {
  addFiles(target.files);
  target.value = ""; // the same photo may be chosen again
};
$("model").onchange = modelChanged;
$("token-form").onsubmit = useToken;
$("token-forget").onclick = () => {
  remember("");
  askForToken();
};
$("same-copy").onclick = () => copy($("same-code"));
document.querySelector(".tabs").onchange = showSnippet;
$("results").onmouseover = $("results").onmouseout = highlight;
offerCamera((file) => addFiles([file]));
remember(savedToken());
if (slider) {
  $("confidence-field").hidden = false;
  slider.oninput = confidenceChanged;
  slider.onchange = confidenceSet;
  confidenceChanged();
}
if (server.wantsToken) refreshModels();
else listModels();
