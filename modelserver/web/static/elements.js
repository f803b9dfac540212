// Elements, made here and nowhere else. All that the server or a file says becomes text
// nodes and attributes, never markup; positions and sizes go through CSSOM, which the
// CSP allows.

/** Make an element; strings among its children become text. */
export function make(tag, properties = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name in node) node[name] = value;
    else node.setAttribute(name, value);
  }
  node.append(...children);
  return node;
}

/** Make a button; `label` is for who hears it, where its text is a sign. */
export function button(words, onclick, { label, ...more } = {}) {
  const node = make("button", { type: "button", onclick, ...more }, words);
  if (label) node.setAttribute("aria-label", label);
  return node;
}

export const percent = (share) => `${Math.round(share * 100)} %`;
export const objects = (count) => `${count || "no"} object${count === 1 ? "" : "s"}`;
export const milliseconds = (ms) => `${ms < 10 ? ms.toFixed(1) : Math.round(ms)} ms`;
/** The words for an answer of independent classes, none of which is sure enough. */
export const NONE = "None at 50 % or above.";

/** Say something to who hears the page. */
export const say = (words) => (document.getElementById("live").textContent = words);

/** Copy an element's text, and show on the button that it was. */
export async function copyText(node, pressed) {
  try {
    await navigator.clipboard.writeText(node.textContent);
  } catch {
    // Over plain HTTP from another machine a page has no clipboard.
    getSelection().selectAllChildren(node);
    document.execCommand("copy");
  }
  say("Copied.");
  pressed.textContent = "Copied ✓";
  setTimeout(() => (pressed.textContent = "Copy"), 2000);
}
