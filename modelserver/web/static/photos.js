// The photos on the page: chosen, dropped, pasted or taken, folders too.

import { button, make } from "./elements.js";
import { forget } from "./questions.js";

const MOST = 100;
const SHOWN_NAMES = 5;
const PHOTO = /\.(jpe?g|jfif|png|gif|webp|bmp|heic|heif|avif|tiff?)$/i;

const $ = (id) => document.getElementById(id);
export const shots = [];
let chosen = null; // the shot that is shown
let heard = {};

export const chosenShot = () => chosen;

/** Set who hears: `added(shot)` of each photo, `chosen()` of another one shown, and `video(file)`. */
export function startPhotos(ears) {
  heard = ears;
  for (const type of ["dragenter", "dragover", "dragleave", "drop"]) {
    document.addEventListener(type, onDrag);
  }
  document.addEventListener("paste", ({ clipboardData }) => addFiles([...(clipboardData?.files ?? [])]));
  $("file").multiple = true;
  $("file").accept += ",video/*";
  $("file").onchange = async ({ target }) => {
    addFiles([...target.files]);
    target.value = ""; // the same photo may be chosen again
  };
  $("clear").onclick = clear;
  $("strip").onkeydown = onKey;
}

const isVideo = ({ type }) => type.startsWith("video/");

/** Add photos or play a video, and say what was left out. */
export function addFiles(given, named = []) {
  const [video, ...more] = given.filter(isVideo);
  if (video) heard.video(video);
  const files = given.filter((file) => !isVideo(file));
  const others = [...named, ...more.map(({ name }) => name)];
  const photos = files.slice(0, MOST - shots.length);
  const words = [];
  if (photos.length < files.length) {
    words.push(`The page takes ${MOST} photos at most: ${files.length - photos.length} of ${files.length} were left out.`);
  }
  if (others.length) {
    const names = others.slice(0, SHOWN_NAMES).join(", ");
    const more = others.length > SHOWN_NAMES ? ` and ${others.length - SHOWN_NAMES} more` : "";
    words.push(`No ${others.length === 1 ? "photo" : "photos"}, and left out: ${names}${more}.`);
  }
  if (files.length || others.length) $("notice").textContent = words.join(" ");
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
    make("img", { src: url, alt: "", decoding: "async", onerror: blank, onload: measure(shot) }),
    make("span", { className: "name" }, name),
    shot.badge,
  );
  const sign = make("span", {}, "×");
  const remove = button(sign, () => removeShot(shot), { className: "remove", label: `Remove ${name}` });
  shot.item = make("li", {}, shot.button, remove);
  shots.push(shot);
  $("strip").append(shot.item);
  heard.added(shot);
}

/** Show an empty place for a photo that cannot be shown. */
const blank = ({ target }) => target.replaceWith(make("span", { className: "blank" }));

/** Keep the size of the photo as it is seen, for downloads. */
const measure = (shot) => ({ target }) => {
  shot.size = [target.naturalWidth, target.naturalHeight];
};

function removeShot(shot) {
  const index = shots.indexOf(shot);
  shots.splice(index, 1);
  forget(shot);
  URL.revokeObjectURL(shot.url);
  shot.item.remove();
  const next = shots[Math.min(index, shots.length - 1)] ?? null;
  choose(shot === chosen ? next : chosen);
  (next?.button ?? $("file")).focus();
}

function clear() {
  for (const shot of shots.splice(0)) {
    forget(shot);
    URL.revokeObjectURL(shot.url);
  }
  $("strip").replaceChildren();
  $("notice").textContent = "";
  choose(null);
  $("file").focus();
}

/** Show a photo. */
export function choose(shot) {
  chosen = shot;
  $("shown").hidden = !shot;
  $("drop").classList.toggle("small", shots.length > 0);
  $("clear").hidden = shots.length < 2;
  for (const each of shots) each.button.setAttribute("aria-pressed", each === shot);
  heard.chosen();
}

/** Go along the strip by arrow keys, and remove by Delete. */
function onKey(event) {
  const index = shots.findIndex((shot) => shot.button === document.activeElement);
  if (index < 0) return;
  if (event.key === "Delete") return removeShot(shots[index]);
  const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
  const next = shots[index + step];
  if (!next) return;
  event.preventDefault();
  choose(next);
  next.button.focus();
}

async function onDrag(event) {
  if (!event.dataTransfer?.types.includes("Files")) return;
  event.preventDefault();
  $("drop").classList.toggle("over", event.type === "dragenter" || event.type === "dragover");
  if (event.type !== "drop") return;
  const { photos, others } = await walk(event.dataTransfer);
  addFiles(photos, others);
}

/** The photos of what was dropped, and the names of what is none; folders are entered. */
async function walk(data) {
  const found = { photos: [], others: [] };
  // Both are gone once this function has waited.
  const files = [...data.files];
  const entries = [...data.items].map((item) => item.webkitGetAsEntry?.());
  if (!entries.some((entry) => entry?.isDirectory)) return { photos: files, others: [] };
  for (const entry of entries) if (entry) await enter(entry, found);
  return found;
}

async function enter(entry, found) {
  if (!entry.isDirectory) {
    // A camera's folder holds films and notes; what has another name is asked about.
    if (entry.name.startsWith(".")) return;
    if (!PHOTO.test(entry.name)) return found.others.push(entry.name);
    return found.photos.push(await new Promise((done, fail) => entry.file(done, fail)));
  }
  const reader = entry.createReader();
  const inside = [];
  for (;;) {
    const some = await new Promise((done, fail) => reader.readEntries(done, fail)); // 100 at most
    if (!some.length) break;
    inside.push(...some);
  }
  inside.sort((a, b) => (a.name < b.name ? -1 : 1));
  for (const one of inside) await enter(one, found);
}
