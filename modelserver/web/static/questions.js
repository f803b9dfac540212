// What is asked of the server: each photo once for each model, a few at a time, and
// again where that may help. A photo of a model that loads waits for the model.

import { evaluate } from "./api.js";
import { token } from "./token.js";

const AT_A_TIME = 4; // requests; more would only wait in the server's queue
const TRIES = 5;
const LOOK_MS = 1000; // no photo is sent again sooner than this
const NOT_READY = "/problems/model-not-ready";

const waiting = []; // [shot, model] to be asked
let running = 0;
let heard = {};

/**
 * Set who hears of answers: `changed(shot, model)` of each new one, `unauthorized()`,
 * `notReady()` if a model loads, and `unreachable()` if nothing answered.
 */
export const listen = (ears) => (heard = ears);

export const answerOf = (shot, model) => shot.answers.get(model.id);

const loads = ({ state }) => state === "LOADING" || state === "DRAINING";

/** Ask a model about a photo, unless that was done. */
export function askOnce(shot, model) {
  if (answerOf(shot, model)) return;
  if (loads(model)) shot.answers.set(model.id, { state: "loading", tries: 0, since: 0 });
  else ask(shot, model, 1);
}

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
    if (!shot.stop.signal.aborted) take(shot, model, await evaluate(shot, model, token()));
  } catch (error) {
    if (error.name !== "AbortError") throw error; // its photo was removed
  } finally {
    running -= 1;
    askNext();
  }
}

function take(shot, model, answer) {
  const { tries } = answerOf(shot, model);
  if (answer.type === NOT_READY) {
    shot.answers.set(model.id, { state: "loading", tries: 0, since: performance.now() });
    heard.notReady();
    return heard.changed(shot, model);
  }
  shot.answers.set(model.id, { ...answer, tries });
  if (answer.status === 401) heard.unauthorized();
  if (answer.unreachable) heard.unreachable();
  if (answer.after && tries < TRIES) {
    const timer = setTimeout(() => retry(shot, model), answer.after * 1000);
    Object.assign(answerOf(shot, model), { planned: true, timer });
  }
  heard.changed(shot, model);
}

/** Ask again at once. */
export function retry(shot, model) {
  const { timer, tries } = answerOf(shot, model);
  clearTimeout(timer);
  ask(shot, model, tries + 1);
  heard.changed(shot, model);
}

/** Ask no more about a photo. */
export function forget(shot) {
  shot.stop.abort();
  for (const { timer } of shot.answers.values()) clearTimeout(timer);
}

/** Whether one of the photos waits for its model. */
export const anyLoading = (shots) =>
  shots.some(({ answers }) => [...answers.values()].some(({ state }) => state === "loading"));

/** Ask again what waited for a model, for a token, or for the server to come back. */
export function resume(shots, models, cameBack) {
  for (const shot of shots) {
    for (const model of models) {
      const answer = answerOf(shot, model);
      if (answer?.state === "loading") resumeLoading(shot, model);
      else if (answer?.unreachable && cameBack) retry(shot, model);
    }
  }
}

function resumeLoading(shot, model) {
  // One that just died, or is loaded on demand, is not known to load at once.
  const early = performance.now() - answerOf(shot, model).since < LOOK_MS;
  if (loads(model) || early) return;
  if (model.state !== "FAILED") return retry(shot, model);
  const detail = model.reason || "The server does not say why.";
  shot.answers.set(model.id, { state: "failed", title: "Model failed", detail, again: true, tries: 0 });
  heard.changed(shot, model);
}
