// The list of models: asked for again and again, so that a model that comes, loads or
// fails, and a server that was restarted, are noticed.

import { credentials, server } from "./api.js";
import { make } from "./elements.js";
import { askForToken, token, tokenTaken } from "./token.js";

const SOON_MS = 2000; // while something is about to change
const LATER_MS = 10_000;

const $ = (id) => document.getElementById(id);
const kinds = Object.keys(server.paths);
let models = [];
let heard = {};
let away = false; // the server did not answer the last time
let timer = 0;
let asking = false;
let chosen = ""; // ids of the models that were asked last

export const allModels = () => models;
const usable = () => models.filter(({ state }) => state !== "FAILED");

/** Keep the facts of a model that the page shows. */
function readModel({ name, kind, state, reason, reload_error: reload, scaling, sizing, ...more }) {
  const guesses = { scaling, size: sizing };
  const guessed = Object.keys(guesses).filter((what) => guesses[what] === "default").join(" ");
  return { name, kind, state, reason: reason || reload || "", slow: more.device_reason, guessed };
}

/** Tell models apart: two of different kinds may have one name. */
function identify(found) {
  const twice = (name) => found.filter((model) => model.name === name).length > 1;
  return found.map((model) => ({
    ...model,
    id: kinds.length > 1 ? `${model.kind}/${model.name}` : model.name,
    title: twice(model.name) ? `${model.name} (${model.kind})` : model.name,
  }));
}

/** Whether a model serves, or will once it is asked. */
const serves = ({ state }) => ["READY", "UNLOADED", ""].includes(state ?? "");

/** The words of a model's option. */
function wordsFor({ name, state, guessed, ...model }) {
  const mark = guessed ? ` (${guessed.replace(" ", ": guessed, ")}: guessed)` : "";
  return (serves({ ...model, state }) ? name : `${name} (${state.toLowerCase()})`) + mark;
}

/**
 * Show the models that the page came with, and look again by itself. `heard` has
 * `changed()` for another choice, `looked(models, cameBack)` after each look, and
 * `waits()`, whether a photo waits for its model.
 */
export function startList(ears) {
  heard = ears;
  const options = [...$("model").options];
  models = identify(options.map(({ value: name, dataset }) => ({ name, ...dataset })));
  $("model").onchange = noteChoice;
  document.addEventListener("visibilitychange", () => document.hidden || look());
  if (server.wantsToken) look();
  else showList();
  plan();
}

/** Look again soon if something is about to change, else later. */
function plan() {
  clearTimeout(timer);
  const soon = away || !models.some(serves) || models.some(({ state }) => state === "LOADING");
  timer = setTimeout(look, soon || heard.waits() ? SOON_MS : LATER_MS);
}

/** Ask the server for its models; also the way to have a new state noticed at once. */
export async function look() {
  if (asking) return;
  if (server.wantsToken && !token()) return askForToken();
  if (document.hidden) return plan();
  asking = true;
  try {
    await take(await fetch(`${server.root}/models`, { headers: credentials(token()) }));
  } catch (error) {
    if (!(error instanceof TypeError)) throw error;
    away = true;
    tell("The server does not answer. This page looks again by itself.");
  } finally {
    asking = false;
    plan();
  }
}

async function take(answer) {
  if (answer.status === 401) return askForToken();
  if (!answer.ok) return;
  models = identify((await answer.json()).models.map(readModel));
  const cameBack = away;
  away = false;
  tell(cameBack ? "The server answers again." : "");
  tokenTaken();
  showList();
  heard.looked(models, cameBack);
}

function tell(words) {
  if ($("server-state").textContent !== words) $("server-state").textContent = words;
}

function showList() {
  const select = $("model");
  const before = select.value;
  const all = select.selectedOptions[0]?.dataset.all;
  const made = groups();
  if (usable().length > 1) made.push(make("option", { "data-all": "1", value: "*" }, "All models, side by side"));
  select.replaceChildren(...made);
  const options = [...select.options];
  const same = options.findIndex(({ value, disabled }) => value === before && !disabled);
  const first = options.findIndex(({ disabled }) => !disabled);
  const last = all && usable().length > 1 ? options.length - 1 : same;
  select.selectedIndex = last >= 0 ? last : Math.max(first, options.length ? 0 : -1);
  $("no-models").hidden = models.length > 0;
  const words = models.map(({ title, slow }) => (slow ? `${title} runs on the CPU: ${slow} ` : ""));
  if ($("slow").textContent.trim() !== words.join("").trim()) $("slow").textContent = words.join("");
  showTroubles();
  showGuesses();
  noteChoice();
}

/** Tell of another choice, however it came. */
function noteChoice() {
  const now = String(chosenModels().map(({ id }) => id));
  if (now === chosen) return;
  chosen = now;
  showGuesses();
  heard.changed();
}

/** Options of all models, in groups where there are several kinds. */
function groups() {
  const optionOf = (model) =>
    make("option", { value: model.id, disabled: model.state === "FAILED" }, wordsFor(model));
  if (kinds.length < 2) return models.map(optionOf);
  return kinds.map((kind) => {
    const label = kind[0].toUpperCase() + kind.slice(1);
    return make("optgroup", { label }, ...models.filter((model) => model.kind === kind).map(optionOf));
  });
}

/** The reasons of models that do not serve, or whose new files do not. */
function showTroubles() {
  const made = models.filter(({ reason }) => reason).map(({ title, state, reason }) => {
    const words = state === "FAILED" ? " cannot be served: " : serves({ state }) ? " serves on with its old files: " : " is loading again: ";
    return make("li", {}, make("strong", {}, title), words, reason);
  });
  const text = (nodes) => [...nodes].map((node) => node.textContent).join("\n");
  if (text(made) !== text($("troubles").children)) $("troubles").replaceChildren(...made);
  $("troubles").hidden = !made.length;
}

export function chosenModels() {
  const option = $("model").selectedOptions[0];
  if (!option || option.disabled) return [];
  return option.dataset.all ? usable() : models.filter(({ id }) => id === option.value);
}

/** Choose a model by its id, or all with `*`; not one that is not there. */
export function chooseModel(id) {
  const index = [...$("model").options].findIndex(({ value, disabled }) => value === id && !disabled);
  if (index < 0) return;
  $("model").selectedIndex = index;
  noteChoice();
}

/** Show the remedy for each thing that is guessed of one of the models asked. */
function showGuesses() {
  const asked = chosenModels();
  for (const what of ["scaling", "size"]) {
    $(`guessed-${what}`).hidden = !asked.some(({ guessed }) => guessed?.includes(what));
  }
}
