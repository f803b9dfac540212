// A photo taken with the camera, as if it were a file.

import { startLive } from "./live.js";

const dialog = document.getElementById("camera");
const words = document.getElementById("camera-words");
const video = document.getElementById("camera-video");
const button = document.getElementById("camera-take");
const live = document.getElementById("camera-live");
const canvas = document.getElementById("camera-canvas");
const rate = document.getElementById("camera-rate");
let endLive = null;

/** Show the camera's button where a page may use a camera; `use` gets the file. */
export function offerCamera(use) {
  // Browsers allow it on this machine and over TLS only.
  if (!navigator.mediaDevices?.getUserMedia) {
    document.getElementById("camera-hint").hidden = window.isSecureContext;
    return;
  }
  const opener = document.getElementById("camera-open");
  opener.hidden = false;
  opener.onclick = open;
  button.onclick = () => take(use);
  document.getElementById("camera-close").onclick = () => dialog.close();
  video.onplaying = () => (button.disabled = live.disabled = false);
  live.onclick = () => setLive(!endLive);
  dialog.onclose = () => {
    setLive(false);
    stop(video.srcObject);
  };
}

async function open() {
  dialog.showModal();
  button.disabled = live.disabled = true;
  words.textContent = "Waiting for the camera …";
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

/** Show the camera's frames with their answers, or the camera alone. */
function setLive(on) {
  endLive?.();
  endLive = on ? startLive(video, canvas, (told) => (rate.textContent = told)) : null;
  rate.textContent = "";
  canvas.hidden = !on;
  video.classList.toggle("behind", on);
  live.setAttribute("aria-pressed", on);
  live.textContent = on ? "Stop live" : "Live";
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
