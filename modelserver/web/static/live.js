// The camera, live: as many frames a second as answers come. A frame that comes while
// another is asked about is dropped, never queued.

import { detects, evaluate } from "./api.js";
import { percent } from "./elements.js";
import { chosenModels } from "./model_list.js";
import { drawItems } from "./picture.js";
import { token } from "./token.js";

const WINDOW_MS = 2000; // over which rates are told
const PAUSE_MS = 1000; // after an error, unless the server says how long

/**
 * Ask the chosen model about frames of a playing video, and draw each with its answer
 * on a canvas; `tell` gets words about the rate. Gives a function that ends it.
 */
export function startLive(video, canvas, tell) {
  const stop = new AbortController();
  const times = { seen: [], answered: [] };
  watchFrames(video, times, stop.signal);
  run(video, canvas, tell, { stop, times }).catch((error) => {
    if (error.name !== "AbortError") throw error; // it was ended
  });
  return () => stop.abort();
}

/** Note each frame that the camera gives, where the browser tells. */
function watchFrames(video, times, signal) {
  if (!video.requestVideoFrameCallback) return;
  const note = () => {
    if (signal.aborted) return;
    times.seen.push(performance.now());
    video.requestVideoFrameCallback(note);
  };
  video.requestVideoFrameCallback(note);
}

async function run(video, canvas, tell, { stop, times }) {
  const frame = document.createElement("canvas");
  while (!stop.signal.aborted) {
    const [model] = chosenModels();
    if (!model || !video.videoWidth) {
      await pause(PAUSE_MS);
      continue;
    }
    [frame.width, frame.height] = [video.videoWidth, video.videoHeight];
    frame.getContext("2d").drawImage(video, 0, 0);
    const file = await new Promise((made) => frame.toBlob(made, "image/jpeg", 0.85));
    const answer = await evaluate({ file, name: "frame.jpg", stop }, model, token());
    if (stop.signal.aborted) return;
    if (answer.state !== "done") {
      tell(`${answer.title}. ${answer.detail}`);
      await pause(Math.max(PAUSE_MS, (answer.after ?? 0) * 1000));
      continue;
    }
    times.answered.push(performance.now());
    [canvas.width, canvas.height] = [frame.width, frame.height];
    canvas.getContext("2d").drawImage(frame, 0, 0);
    drawItems(canvas, model, answer);
    tell(`${wordsOf(model, answer)}${rates(times)}`);
  }
}

const pause = (ms) => new Promise((done) => setTimeout(done, ms));

/** What a classifier says, which cannot be drawn. */
function wordsOf(model, answer) {
  const [best] = answer.items;
  if (detects(model) || answer.none || !best) return "";
  return `${best.label}${best.confidence === undefined ? "" : ` ${percent(best.confidence)}`}. `;
}

/** The rates of the last two seconds. */
function rates(times) {
  const since = performance.now() - WINDOW_MS;
  for (const name of Object.keys(times)) times[name] = times[name].filter((time) => time > since);
  const [seen, answered] = [times.seen.length, times.answered.length];
  const dropped = seen > answered ? `, ${Math.round((100 * (seen - answered)) / seen)} % dropped` : "";
  return `${(answered / (WINDOW_MS / 1000)).toFixed(1)} frames a second${dropped}`;
}
