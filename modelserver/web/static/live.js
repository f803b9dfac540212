// The camera, for a photo as if it were a file or live, and videos: as many frames a second
// as answers come. A frame that comes while another is asked about is dropped, never queued.

import { detects, evaluate } from "./api.js";
import { percent } from "./elements.js";
import { chosenModels } from "./model_list.js";
import { drawItems } from "./picture.js";
import { token } from "./token.js";

const WINDOW_MS = 2000; // over which rates are told
const PAUSE_MS = 1000; // after an error, unless the server says how long
const LOOK_MS = 100; // while there is no frame to ask about

const $ = (id) => document.getElementById(`camera${id}`);
const dialog = $("");
const words = $("-words");
const video = $("-video");
const button = $("-take");
const live = $("-live");
const canvas = $("-canvas");
const rate = $("-rate");
let endLive = null;

/** Show the camera's button where a page may use a camera; `use` gets the file. */
export function offerCamera(use) {
  button.onclick = () => take(use);
  $("-close").onclick = () => dialog.close();
  video.onplaying = () => (button.disabled = live.disabled = false);
  video.onplay = video.onpause = nameButton;
  video.onerror = () => (words.textContent = "This browser cannot play this file.");
  live.onclick = press;
  dialog.onclose = close;
  // Browsers allow it on this machine and over TLS only.
  if (!navigator.mediaDevices?.getUserMedia) {
    $("-hint").hidden = window.isSecureContext;
    return;
  }
  $("-open").hidden = false;
  $("-open").onclick = openCamera;
}

function open(title, told) {
  $("-title").textContent = title;
  words.textContent = told;
  button.disabled = live.disabled = true;
  if (!dialog.open) dialog.showModal();
}

async function openCamera() {
  open("Camera", "Waiting for the camera …");
  try {
    const wanted = { facingMode: "environment", width: { ideal: 1920 } };
    const stream = await navigator.mediaDevices.getUserMedia({ video: wanted });
    if (!dialog.open) return stop(stream);
    video.srcObject = stream;
    words.textContent = "";
  } catch (error) {
    words.textContent =
      error.name === "NotAllowedError"
        ? "This page was not allowed to use the camera."
        : "There is no camera that this page could use.";
  }
}

/** Play a video's file with what is seen in it; its button pauses it. */
export function playVideo(file) {
  close();
  open(file.name, "");
  video.src = URL.createObjectURL(file);
  setLive(true);
}

function press() {
  if (video.srcObject) setLive(!endLive);
  else if (video.paused) video.play().catch(() => {}); // it was paused meanwhile, or closed
  else video.pause();
}

/** Show the frames with their answers, or the camera alone. */
function setLive(on) {
  endLive?.();
  endLive = on ? startLive(video, canvas, (told) => (rate.textContent = told)) : null;
  rate.textContent = "";
  canvas.hidden = !on;
  video.classList.toggle("behind", on);
  nameButton();
}

function nameButton() {
  const on = Boolean(endLive);
  if (video.src) live.removeAttribute("aria-pressed");
  else live.setAttribute("aria-pressed", on);
  const film = video.paused ? "Play" : "Pause";
  live.textContent = video.src ? film : on ? "Stop live" : "Live";
}

function close() {
  setLive(false);
  stop(video.srcObject);
  URL.revokeObjectURL(video.src);
  video.removeAttribute("src");
  video.load(); // else it plays on
  nameButton();
}

function stop(stream) {
  for (const track of stream?.getTracks() ?? []) track.stop();
  video.srcObject = null;
}

function take(use) {
  const canvas = document.createElement("canvas");
  canvas.width = video.videoWidth;
  canvas.height = video.videoHeight;
  canvas.getContext("2d").drawImage(video, 0, 0);
  dialog.close();
  canvas.toBlob((blob) => use(new File([blob], "camera.jpg", { type: blob.type })), "image/jpeg", 0.92);
}

/**
 * Ask the chosen model about frames of a playing video, and draw each with its answer
 * on a canvas; `tell` gets words about the rate. Gives a function that ends it.
 */
function startLive(video, canvas, tell) {
  const stop = new AbortController();
  const times = { seen: [], answered: [] };
  watchFrames(video, times, stop.signal);
  run(video, canvas, tell, { stop, times }).catch((error) => {
    if (error.name !== "AbortError") throw error; // it was ended
  });
  return () => stop.abort();
}

/** Note each frame that is shown, where the browser tells. */
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
    if (!model || !video.videoWidth || video.paused) {
      await pause(LOOK_MS);
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
