// One colour a label: the same on every page, and in the pictures that the server draws
// (modelserver/decoder/drawing.py has the same numbers).

const TONES = 24; // as many as page.css has
const BITS = 8;
const POLYNOMIAL = 0xedb88320;

/** The CRC-32 of a text's UTF-8. */
function checksum(text) {
  let sum = -1;
  for (const byte of new TextEncoder().encode(text)) {
    sum ^= byte;
    for (let bit = 0; bit < BITS; bit += 1) sum = (sum >>> 1) ^ (sum & 1 ? POLYNOMIAL : 0);
  }
  return ~sum >>> 0;
}

/** The class of a label's colour. */
export const toneOf = (label) => `tone-${checksum(label) % TONES}`;

/** A label's colour as CSS has it, for a canvas. */
export function colourOf(label) {
  const probe = document.createElement("i");
  probe.className = toneOf(label);
  probe.hidden = true;
  document.body.append(probe);
  const colour = getComputedStyle(probe).getPropertyValue("--tone").trim();
  probe.remove();
  return colour;
}
