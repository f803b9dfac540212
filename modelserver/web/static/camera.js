// A photo taken with the camera, as if it were a file.

const dialog = document.getElementById("camera");
const words = document.getElementById("camera-words");
const video = document.getElementById("camera-video");
const button = document.getElementById("camera-take");

/** Show the camera's button where a page may use a camera; `use` gets the file. */
export function offerCamera(use) {
  // Browsers allow it on this machine and over TLS only.
  if (!navigator.mediaDevices?.getUserMedia) return;
  const opener = document.getElementById("camera-open");
  opener.hidden = false;
  opener.onclick = open;
  button.onclick = () => take(use);
  document.getElementById("camera-close").onclick = () => dialog.close();
  video.onplaying = () => (button.disabled = false);
  dialog.onclose = () => stop(video.srcObject);
}

async function open() {
  dialog.showModal();
  button.disabled = true;
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
