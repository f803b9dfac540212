// What the server says of its models, in the page's words.

import { server } from "./asking.js";
import { make } from "./drawing.js";

const kinds = Object.keys(server.paths);

/** Keep what the page shows of a model; one that serves has no state. */
export function heard({ name, kind, state, device_reason: slow, scaling, sizing }) {
  const guesses = { scaling, size: sizing };
  return {
    name,
    kind,
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

/** Tell models apart: two of different kinds may have one name. */
export function identified(models) {
  const twice = (name) => models.filter((one) => one.name === name).length > 1;
  return models.map((one) => ({
    ...one,
    id: kinds.length > 1 ? `${one.kind}/${one.name}` : one.name,
    title: twice(one.name) ? `${one.name} (${one.kind})` : one.name,
  }));
}

/** Make the options of all models, in groups where there are several kinds. */
export function optionsOf(models) {
  const optionOf = (one) =>
    make("option", { value: one.id, disabled: one.state === "FAILED" }, wordsFor(one));
  if (kinds.length < 2) return models.map(optionOf);
  return kinds.map((kind) => {
    const label = kind[0].toUpperCase() + kind.slice(1);
    return make("optgroup", { label }, ...models.filter((one) => one.kind === kind).map(optionOf));
  });
}

/** Show the remedy for each thing that is guessed of one of the models asked. */
export function showGuesses(models, asked) {
  for (const what of ["scaling", "size"]) {
    document.getElementById(`guessed-${what}`).hidden = !models.some(
      (one) => one.guessed?.includes(what) && asked.includes(one),
    );
  }
}
