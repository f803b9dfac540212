// What the server says of its models, in the page's words.

/** Keep what the page shows of a model; one that serves has no state. */
export function heard({ name, state, device_reason: slow, scaling }) {
  return {
    name,
    slow,
    scaling: scaling === "default" ? "guessed" : "",
    state: ["READY", "UNLOADED"].includes(state) ? "" : state,
  };
}

/** Give the words of a model's option. */
export function wordsFor({ name, state, scaling }) {
  const mark = scaling ? ` (scaling: ${scaling})` : "";
  return (state ? `${name} (${state.toLowerCase()})` : name) + mark;
}

/** Tell whether one of the models asked is fed by habit. */
export function isGuessed(models, asked) {
  return models.some(({ name, scaling }) => scaling && asked.includes(name));
}
