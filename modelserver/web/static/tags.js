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
