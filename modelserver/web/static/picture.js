// A photo with its boxes: zoomed, moved, and each box together with its row.

import { detects } from "./api.js";
import { colourOf, toneOf } from "./colours.js";
import { button, make, percent } from "./elements.js";
import { seenOf, view } from "./view.js";

const MOST_ZOOM = 12;
const STEP = 1.5;
const MOVE = 40; // pixels of an arrow key

/** A photo with the boxes of an answer, and the buttons that belong to it. */
export function pictureOf(shot, model, answer) {
  const photo = make("img", { src: shot.url, alt: shot.name, draggable: false });
  const layer = make("div", { className: "boxes", "aria-hidden": "true" });
  const sheet = make("div", { className: "sheet" }, photo, layer);
  const frame = make("div", { className: "picture", tabIndex: 0, role: "group" }, sheet);
  frame.setAttribute("aria-label", "Photo: plus and minus zoom, arrows move");
  const node = make("div", { className: "seen" }, frame);
  if (detects(model) && answer?.state === "done") {
    layer.append(...answer.items.map(boxOf).reverse()); // the surest lies on top
  }
  photo.onload = () => {
    frame.style.setProperty("--ratio", photo.naturalWidth / photo.naturalHeight);
    const cells = node.parentNode?.querySelectorAll("[data-box]") ?? [];
    for (const cell of cells) cell.textContent = pixels(JSON.parse(cell.dataset.box), photo);
    placeTags(layer);
  };
  photo.onerror = () => {
    const words = "This browser cannot show the file as a picture.";
    node.replaceChildren(make("div", { className: "picture" }, make("p", { className: "hint" }, words)));
  };
  const zoom = offerZoom(frame, sheet);
  new ResizeObserver(() => placeTags(layer)).observe(sheet);
  const save = button("Save picture", () => savePicture(photo, shot, model, answer));
  save.hidden = answer?.state !== "done";
  node.append(
    make(
      "p",
      { className: "tools" },
      button("−", () => zoom(1 / STEP), { label: "Zoom out" }),
      button("+", () => zoom(STEP), { label: "Zoom in" }),
      button("Fit", () => zoom(0)),
      save,
    ),
  );
  return node;
}

/** A box in pixels; the browser knows the size of the photo as it is seen. */
function pixels([x1, y1, x2, y2], { naturalWidth: w, naturalHeight: h }) {
  const [left, top, right, bottom] = [x1 * w, y1 * h, x2 * w, y2 * h].map(Math.round);
  return `${left}, ${top} – ${right}, ${bottom}`;
}

export function boxOf({ label, confidence, bounding_box: [x1, y1, x2, y2] }, index) {
  const words = make("span", { className: "chip" }, `${label} ${percent(confidence)}`);
  const box = make("div", { className: `box ${toneOf(label)}` }, words);
  box.style.left = `${x1 * 100}%`;
  box.style.top = `${y1 * 100}%`;
  box.style.width = `${(x2 - x1) * 100}%`;
  box.style.height = `${(y2 - y1) * 100}%`;
  Object.assign(box.dataset, { confidence, index });
  return box;
}

/** Let a photo be zoomed and moved by keys, fingers and mouse; gives the zoom. */
function offerZoom(frame, sheet) {
  const at = { zoom: 1, x: 0, y: 0 };
  const fingers = new Map();
  const show = () => {
    const { clientWidth: width, clientHeight: height } = frame;
    at.x = Math.min(0, Math.max(at.x, width * (1 - at.zoom)));
    at.y = Math.min(0, Math.max(at.y, height * (1 - at.zoom)));
    frame.classList.toggle("zoomed", at.zoom > 1);
    sheet.style.width = `${at.zoom * 100}%`;
    sheet.style.translate = `${at.x}px ${at.y}px`;
  };
  /** Zoom by a factor, 0 to fit, about a point of the frame: its middle by default. */
  const zoom = (factor, x = frame.clientWidth / 2, y = frame.clientHeight / 2) => {
    const next = factor ? Math.min(MOST_ZOOM, Math.max(1, at.zoom * factor)) : 1;
    at.x = x - ((x - at.x) * next) / at.zoom;
    at.y = y - ((y - at.y) * next) / at.zoom;
    at.zoom = next;
    show();
  };
  const move = (x, y) => {
    at.x += x;
    at.y += y;
    show();
  };
  frame.onkeydown = (event) => {
    const acts = {
      "+": () => zoom(STEP),
      "=": () => zoom(STEP),
      "-": () => zoom(1 / STEP),
      0: () => zoom(0),
      ArrowLeft: () => move(MOVE, 0),
      ArrowRight: () => move(-MOVE, 0),
      ArrowUp: () => move(0, MOVE),
      ArrowDown: () => move(0, -MOVE),
    };
    const moves = event.key.startsWith("Arrow");
    const ours = event.target === frame && !event.ctrlKey && !event.metaKey && !event.altKey;
    if (!ours || !acts[event.key] || (moves && at.zoom === 1)) return;
    event.preventDefault();
    acts[event.key]();
  };
  frame.addEventListener(
    "wheel",
    (event) => {
      if (!event.ctrlKey && !event.metaKey) return; // the page is scrolled
      event.preventDefault();
      const { left, top } = frame.getBoundingClientRect();
      zoom(event.deltaY < 0 ? 1.15 : 1 / 1.15, event.clientX - left, event.clientY - top);
    },
    { passive: false },
  );
  frame.ondblclick = (event) => {
    const { left, top } = frame.getBoundingClientRect();
    zoom(at.zoom > 1 ? 0 : 3, event.clientX - left, event.clientY - top);
  };
  frame.onpointerdown = (event) => {
    fingers.set(event.pointerId, event);
  };
  frame.onpointerup = frame.onpointercancel = frame.onpointerleave = (event) => {
    fingers.delete(event.pointerId);
  };
  frame.onpointermove = (event) => {
    const before = fingers.get(event.pointerId);
    if (!before) return;
    const [other] = [...fingers.values()].filter(({ pointerId }) => pointerId !== event.pointerId);
    if (other) pinch(before, event, other);
    else if (at.zoom > 1) move(event.clientX - before.clientX, event.clientY - before.clientY);
    fingers.set(event.pointerId, event);
  };
  function pinch(before, now, other) {
    const far = (one) => Math.hypot(one.clientX - other.clientX, one.clientY - other.clientY);
    const { left, top } = frame.getBoundingClientRect();
    const [x, y] = [(now.clientX + other.clientX) / 2 - left, (now.clientY + other.clientY) / 2 - top];
    if (far(before) > 0) zoom(far(now) / far(before), x, y);
  }
  return zoom;
}

/** Draw what is to be seen of an answer on a canvas that holds its photo. */
export function drawItems(canvas, model, answer) {
  if (!detects(model)) return;
  const pen = canvas.getContext("2d");
  const side = Math.min(canvas.width, canvas.height);
  const [line, letters] = [Math.max(1, Math.round(side / 250)), Math.min(48, Math.max(10, side / 30))];
  pen.lineWidth = line;
  pen.font = `600 ${letters}px system-ui, sans-serif`;
  pen.textBaseline = "top";
  for (const { label, confidence, bounding_box: box } of seenOf(model, answer).reverse()) {
    const [x, y, right, bottom] = box.map((part, i) => part * (i % 2 ? canvas.height : canvas.width));
    pen.strokeStyle = pen.fillStyle = colourOf(label);
    if (view.boxes) pen.strokeRect(x, y, right - x, bottom - y);
    if (!view.labels) continue;
    const words = `${label} ${percent(confidence)}`;
    const [wide, high] = [pen.measureText(words).width + 4 * line, letters * 1.3];
    const [left, top] = [Math.max(0, Math.min(x, canvas.width - wide)), y >= high ? y - high : y];
    pen.fillRect(left, top, wide, high);
    pen.fillStyle = "#fff";
    pen.fillText(words, left + 2 * line, top + letters * 0.15);
  }
}

/** Save the photo as a file with what is drawn on it, in its own size. */
async function savePicture(photo, shot, model, answer) {
  const canvas = make("canvas", { width: photo.naturalWidth, height: photo.naturalHeight });
  canvas.getContext("2d").drawImage(photo, 0, 0);
  drawItems(canvas, model, answer);
  const type = /\.jpe?g$/i.test(shot.name) ? "image/jpeg" : "image/png";
  const blob = await new Promise((made) => canvas.toBlob(made, type, 0.92));
  const stem = shot.name.replace(/\.\w+$/, "");
  saveFile(`${stem}-${model.name}.${type.slice("image/".length)}`, blob);
}

/** Have the browser save a file. */
export function saveFile(name, blob) {
  const url = URL.createObjectURL(blob);
  make("a", { href: url, download: name.replaceAll(/[\\/:*?"<>|]/g, "_") }).click();
  setTimeout(() => URL.revokeObjectURL(url), 60_000);
}

// Where the words of a box go: beside it, on no other words, and on no small object.

const SMALL = 2.5; // heights of a line of words: a box with a shorter side is small

/** Place the words of all boxes that are seen; those that have no room are quiet. */
export function placeTags(layer) {
  const size = { width: layer.clientWidth, height: layer.clientHeight };
  if (!size.width) return;
  const boxes = [...layer.children].filter(({ hidden }) => !hidden).reverse(); // the surest first
  const tags = boxes.map((box) => box.firstChild);
  for (const tag of tags) tag.classList.remove("quiet");
  // All is read before anything is written: else each would be laid out anew.
  const rects = boxes.map((box) => rectOf(box.offsetLeft, box.offsetTop, box.offsetWidth, box.offsetHeight));
  const sizes = tags.map(({ offsetWidth: width, offsetHeight: height }) => ({ width, height }));
  const small = (rect, { height }) => Math.min(rect.width, rect.height) < SMALL * height;
  const taken = rects.filter((rect, index) => small(rect, sizes[index]));
  tags.forEach((tag, index) => {
    const rect = rects[index];
    const spots = spotsFor(rect, sizes[index], size);
    const free = spots.find((spot) => !taken.some((other) => overlap(spot, other)));
    tag.classList.toggle("quiet", !free);
    const spot = free ?? spots[0];
    tag.style.left = `${spot.x - rect.x - 2}px`; // within the border
    tag.style.top = `${spot.y - rect.y - 2}px`;
    if (free) taken.push(free);
  });
}

const rectOf = (x, y, width, height) => ({ x, y, width, height });

/** Places for words about a box, the best first, all within the photo. */
function spotsFor(rect, { width, height }, size) {
  const within = (x) => Math.max(0, Math.min(x, size.width - width));
  const [left, right] = [within(rect.x), within(rect.x + rect.width - width)];
  const [above, below] = [rect.y - height, rect.y + rect.height];
  const spots = [
    [left, above],
    [right, above],
    [left, rect.y],
    [left, below],
    [right, below],
    [right, rect.y],
  ].filter(([, y]) => y >= 0 && y + height <= size.height);
  const made = spots.map(([x, y]) => rectOf(x, y, width, height));
  return made.length ? made : [rectOf(left, Math.max(0, rect.y), width, height)];
}

function overlap(a, b) {
  const apart = a.x + a.width <= b.x || b.x + b.width <= a.x;
  return !apart && a.y + a.height > b.y && b.y + b.height > a.y;
}
