// What the server says of its models, in the page's words.

/** Keep what the page shows of a model; one that serves has no state. */
export function heard({ name, state, device_reason: slow, scaling, sizing }) {
  const guesses = { scaling, size: sizing };
  return {
    name,
    slow,
    guessed: Object.keys(guesses).filter((what) => guesses[what] === "default").join(" "),
    state: ["READY", "UNLOADED"].includes(state) ? "" : state,
  };
}

/** Give the words of a model's option. */
export function wordsFor({ name, state, guessed }) {
  const mark = guessed ? ` (${guessed.replace(" ", ": guessed, ")}: guessed)` : "";
  return (state ? `${name} (${state.toLowerCase()})` : name) + mark;
}

/** Show the remedy for each thing that is guessed of one of the models asked. */
export function showGuesses(models, asked) {
  for (const what of ["scaling", "size"]) {
    document.getElementById(`guessed-${what}`).hidden = !models.some(
      ({ name, guessed }) => guessed?.includes(what) && asked.includes(name),
    );
  }
}
