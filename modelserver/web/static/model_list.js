// The list of models: from what the server says of them to options.

import { server } from "./api.js";
import { make } from "./elements.js";

const kinds = Object.keys(server.paths);

/** Keep the facts of a model that the page shows; one that serves has no state. */
export function readModel({ name, kind, state, device_reason: slow, scaling, sizing }) {
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
export function identify(models) {
  const twice = (name) => models.filter((model) => model.name === name).length > 1;
  return models.map((model) => ({
    ...model,
    id: kinds.length > 1 ? `${model.kind}/${model.name}` : model.name,
    title: twice(model.name) ? `${model.name} (${model.kind})` : model.name,
  }));
}

/** Make the options of all models, in groups where there are several kinds. */
export function optionsOf(models) {
  const optionOf = (model) =>
    make("option", { value: model.id, disabled: model.state === "FAILED" }, wordsFor(model));
  if (kinds.length < 2) return models.map(optionOf);
  return kinds.map((kind) => {
    const label = kind[0].toUpperCase() + kind.slice(1);
    return make("optgroup", { label }, ...models.filter((model) => model.kind === kind).map(optionOf));
  });
}

/** Show the remedy for each thing that is guessed of one of the models asked. */
export function showGuesses(models, asked) {
  for (const what of ["scaling", "size"]) {
    document.getElementById(`guessed-${what}`).hidden = !models.some(
      (model) => model.guessed?.includes(what) && asked.includes(model),
    );
  }
}
