// The API page tries each operation out: a form made of the API's own document, the curl
// line of what it holds, and the answer. Forms are made once they are opened.

import { button, copyText, make, milliseconds, say } from "./elements.js";
import { CURL_TOKEN, curlField, curlFile, curlHeader, curlLine, word } from "./shell.js";
import { savedToken, saveToken } from "./token.js";

const { root, spec, token: wantsToken, paths } = document.body.dataset;
const KINDS = Object.fromEntries(Object.entries(JSON.parse(paths)).map(([kind, path]) => [path, kind]));
const FORM = "multipart/form-data";
const JSON_TYPE = "application/json";
const MOST_SHOWN = 100_000; // characters: more would make the page slow
// Of what an answer's head says; the rest is the same for all.
const HEADERS = [
  "Content-Type", "X-Model", "X-Model-Digest", "X-Image-Width", "X-Image-Height", "X-Image-Orientation",
  "X-Below-Confidence", "Server-Timing", "X-Request-Id", "Retry-After", "WWW-Authenticate", "Allow",
];

// What the server says about itself: its API, and its models.

let asked = null;

/** The API's document, fetched once; nothing if it cannot be had. */
async function theDocument() {
  asked ??= fetch(spec).then((answer) => (answer.ok ? answer.json() : null)).catch(() => null);
  const found = await asked;
  if (!found) asked = null; // the next form asks again
  return found;
}

/** The models that can be asked, those that are ready first; none if nobody tells. */
async function theModels() {
  if (wantsToken !== undefined && !savedToken()) return [];
  try {
    const answer = await fetch(`${root}/models`, { headers: credentials() });
    const { models } = answer.ok ? await answer.json() : { models: [] };
    const known = models.filter(({ state }) => state !== "FAILED");
    return known.sort((one, other) => (other.state === "READY") - (one.state === "READY"));
  } catch {
    return [];
  }
}

const credentials = () => (savedToken() ? { "X-API-Key": savedToken() } : {});

// Fields.

const isFile = ({ format, items }) => (items ?? { format }).format === "binary";

/** What an operation takes, what it needs first; a form's fields hide equal parameters. */
function fieldsOf({ parameters = [], requestBody, responses, security }) {
  const content = requestBody?.content ?? {};
  const { properties = {}, required = [] } = content[FORM]?.schema ?? {};
  const fields = parameters
    .filter(({ name, in: place }) => place !== "query" || !(name in properties))
    .map(({ name, in: place, schema, description, required: needed }) => ({ name, place, schema, description, needed }));
  for (const [name, schema] of Object.entries(properties)) {
    fields.push({ name, place: "form", schema, description: schema.description, needed: required.includes(name) });
  }
  const rank = ({ needed, place, schema }) => (needed ? 0 : 4) + (place === "header" ? 2 : 0) + (isFile(schema) ? 0 : 1);
  fields.sort((one, other) => rank(one) - rank(other));
  if (!content[FORM] && content[JSON_TYPE]) {
    fields.push({ name: "Body", place: "json", schema: {}, description: JSON_TYPE, needed: true });
  }
  const types = Object.keys(responses["200"]?.content ?? {});
  if (types.length > 1) {
    const description = "What the answer is to be.";
    fields.push({ name: "Accept", place: "header", schema: { enum: types }, description, needed: true });
  }
  if (wantsToken !== undefined && security?.length !== 0) {
    const description = "The server's API token, kept until this tab is closed.";
    fields.push({ name: "API token", place: "token", schema: {}, description, needed: true });
  }
  return fields;
}

function controlOf({ place, schema, needed }) {
  if (isFile(schema)) return make("input", { type: "file", multiple: schema.type === "array" });
  if (schema.enum) {
    const values = needed ? schema.enum : ["", ...schema.enum];
    return make("select", {}, ...values.map((value) => make("option", { value }, value || "not given")));
  }
  if (place === "json") return make("textarea", { rows: 5, spellcheck: false, value: "{}" });
  if (schema.type === "array") return make("textarea", { rows: 1, spellcheck: false });
  const plain = { autocomplete: "off", spellcheck: false };
  if (place === "token") return make("input", { ...plain, type: "password", value: savedToken() });
  // Numbers are texts here, so that a wrong one is answered by the server's own words.
  return make("input", { ...plain, type: "text", required: place === "path" });
}

/** A field's paragraph; the field gets its control. */
function shown(field, prefix) {
  const id = `${prefix}-${field.place}-${field.name.replaceAll(" ", "-")}`;
  field.control = controlOf(field);
  field.control.id = id;
  field.hint = make("span", { className: "hint", id: `${id}-hint` }, ...wordsOf(field));
  field.control.setAttribute("aria-describedby", field.hint.id);
  const label = make("label", { htmlFor: id }, field.name + (field.needed ? "" : " (optional)"));
  return make("p", { className: "field" }, label, field.control, field.hint);
}

function wordsOf({ description = "", schema }) {
  const words = description.split("`").map((part, index) => (index % 2 ? make("code", {}, part) : part));
  return schema.type === "array" && !isFile(schema) ? [...words, " One a line."] : words;
}

/** What is to be sent for a field. */
function valuesOf({ control, schema, place }) {
  if (isFile(schema)) return [...control.files];
  if (place === "json") return [control.value];
  const lines = schema.type === "array" ? control.value.split("\n") : [control.value];
  return lines.map((line) => line.trim()).filter(Boolean);
}

/** Name a model in an empty field, as anybody would do first. */
function offerModels(fields, path, models) {
  const kind = KINDS[path];
  const names = models.filter((model) => !kind || model.kind === kind).map(({ name }) => name);
  for (const { name, place, control, hint } of fields) {
    const namesOne = name === "modelname" || (place === "path" && ["model", "name"].includes(name));
    if (!namesOne || !names.length || hint.dataset.offered) continue;
    hint.dataset.offered = "yes";
    hint.append(` Here: ${[...new Set(names)].join(", ")}.`);
    control.value ||= names[0];
  }
}

// Requests.

/** What the form asks for: an address below this server's root, headers, and a body. */
function requestOf(verb, path, fields) {
  const request = { verb, headers: [], form: [], json: null, token: "" };
  const query = new URLSearchParams();
  let target = path;
  for (const field of fields) {
    for (const value of valuesOf(field)) {
      if (field.place === "path") target = target.replace(`{${field.name}}`, () => encodeURIComponent(value));
      else if (field.place === "query") query.append(field.name, value);
      else if (field.place === "header") request.headers.push([field.name, value]);
      else if (field.place === "form") request.form.push([field.name, value]);
      else request[field.place] = value;
    }
  }
  if (request.json !== null) request.headers.push(["Content-Type", JSON_TYPE]);
  request.url = location.origin + root + target + (query.size ? `?${query}` : "");
  return request;
}

/** The same as a line of curl. */
function curlOf({ verb, url, headers, form, json, token }) {
  const words = token ? [CURL_TOKEN] : [];
  for (const [name, value] of headers) words.push(curlHeader(name, value));
  for (const [name, value] of form) {
    words.push(value instanceof File ? curlFile(name, value.name) : curlField(name, value));
  }
  if (json !== null) words.push(`--data-raw ${word(json)}`);
  else if (verb === "post" && !form.length) words.push("-X POST");
  if (headers.some(([name, value]) => name === "Accept" && value.startsWith("image/"))) words.push("-o answer");
  return curlLine([...words, word(url)]);
}

/** Send a request; gives its answer with its body and milliseconds, or words. */
async function send({ verb, url, headers, form, json, token }, signal) {
  let head;
  try {
    head = new Headers(token ? [...headers, ["X-API-Key", token]] : headers);
  } catch {
    return { words: "A header or the token holds a character that browsers do not send." };
  }
  const filled = new FormData();
  for (const [name, value] of form) filled.append(name, value);
  const body = verb === "post" ? (json ?? (form.length ? filled : null)) : null;
  const started = performance.now();
  try {
    const answer = await fetch(url, { method: verb.toUpperCase(), headers: head, body, signal, cache: "no-store" });
    const content = await answer.blob();
    return { answer, content, took: performance.now() - started };
  } catch (error) {
    if (error.name === "AbortError") return { words: "Stopped." };
    if (!(error instanceof TypeError)) throw error;
    return { words: "Nothing answered. Is the server running, and the file still there?" };
  }
}

// Answers.

/** Show an answer; gives its sentence for who hears the page. */
async function showAnswer(place, title, { answer, content, took }) {
  const { status, statusText, headers } = answer;
  const line = `${status} ${statusText}`.trim();
  const type = headers.get("Content-Type") ?? "";
  const text = type.startsWith("image/") ? "" : await content.text();
  const problem = answer.ok ? null : problemOf(text);
  const facts = HEADERS.filter((name) => headers.has(name)).map((name) =>
    make("div", {}, make("dt", {}, name), make("dd", {}, headers.get(name))),
  );
  place.replaceChildren(
    make("p", {}, make("strong", {}, line), ` in ${milliseconds(took)}, ${content.size} bytes`),
    make("dl", { className: "facts" }, ...facts),
  );
  if (problem) place.append(problem);
  place.append(type.startsWith("image/") ? pictureOf(content) : textOf(text, title));
  return `${line} in ${milliseconds(took)}. ${problem?.textContent ?? ""}`;
}

/** The words of an error: a problem's, or another protocol's. */
function problemOf(text) {
  let told = null;
  try {
    told = JSON.parse(text);
  } catch {
    // A proxy's page: it is shown as it is.
  }
  const detail = told?.detail ?? told?.error;
  if (typeof detail !== "string") return null;
  const node = make("div", { className: "problem" });
  if (told.title) node.append(make("strong", {}, `${told.title}. `));
  node.append(make("span", {}, `${detail} `));
  if (/^\/problems\/[a-z-]+$/.test(told.type)) {
    node.append(make("a", { href: root + told.type, target: "_blank", rel: "noopener" }, "What this means"));
  }
  return node;
}

function pictureOf(content) {
  return make("img", { src: URL.createObjectURL(content), alt: "The picture that was answered" });
}

function textOf(text, title) {
  let words = text;
  try {
    words = JSON.stringify(JSON.parse(text), null, 2);
  } catch {
    // It is no JSON.
  }
  const cut = words.length > MOST_SHOWN ? `${words.slice(0, MOST_SHOWN)}\n… ${words.length - MOST_SHOWN} more` : words;
  return make("pre", { tabIndex: 0, role: "region", "aria-label": `Body of the answer of ${title}` }, cut);
}

// Forms.

/** Make the form of an operation. */
function makeForm(place, verb, path, operation) {
  const title = `${verb.toUpperCase()} ${path}`;
  const fields = fieldsOf(operation);
  const code = make("code");
  const submit = make("button", { className: "primary" }, "Send");
  const answer = make("section", { className: "answer", "aria-label": `Answer of ${title}` });
  const form = make("form", { "aria-label": `Try ${title}` }, ...fields.map((field) => shown(field, `${verb}${path}`)), submit);
  const copy = button("Copy", ({ currentTarget }) => copyText(code, currentTarget), { label: `Copy the curl line of ${title}` });
  const line = make("pre", { tabIndex: 0, role: "region", "aria-label": `${title} as a line of curl` }, code);
  place.replaceChildren(form, make("div", { className: "row same" }, make("h3", {}, "The same with curl"), copy), line, answer);
  const showLine = () => (code.textContent = curlOf(requestOf(verb, path, fields)));
  const offer = async () => {
    offerModels(fields, path, await theModels());
    showLine();
  };
  form.oninput = showLine;
  form.onchange = ({ target }) => {
    if (target.type !== "password") return;
    shareToken(target.value.trim());
    offer();
  };
  form.onsubmit = (event) => {
    event.preventDefault();
    ask({ form, submit, answer, title }, requestOf(verb, path, fields));
  };
  showLine();
  offer();
}

/** Send what the form holds and show the answer; while it waits, the button stops it. */
async function ask({ form, submit, answer, title }, request) {
  if (form.stop) return form.stop.abort();
  form.stop = new AbortController();
  submit.textContent = "Stop";
  for (const old of answer.querySelectorAll("img")) URL.revokeObjectURL(old.src);
  answer.replaceChildren(make("p", { className: "asking" }, "Waiting for the answer …"));
  const got = await send(request, form.stop.signal);
  form.stop = null;
  submit.textContent = "Send";
  if (got.words) answer.replaceChildren(make("p", { className: "problem" }, got.words));
  say(got.words ?? (await showAnswer(answer, title, got)));
}

/** Keep the token for this tab, and write it into all forms. */
function shareToken(token) {
  saveToken(token);
  for (const input of document.querySelectorAll(".tried input[type=password]")) {
    input.value = token;
    input.dispatchEvent(new Event("input", { bubbles: true })); // for its curl line
  }
}

async function open(place) {
  const inside = place.querySelector(".tried");
  if (!place.open || inside.querySelector("form, .asking")) return;
  inside.replaceChildren(make("p", { className: "asking" }, "Waiting for the API's description …"));
  const found = await theDocument();
  const { verb, path } = place.dataset;
  if (found) return makeForm(inside, verb, path, found.paths[path][verb]);
  const words = "Nothing answered. Close and open this to ask again, once the server is running.";
  inside.replaceChildren(make("p", { className: "problem" }, words));
  say(words);
}

for (const place of document.querySelectorAll("details.try")) {
  place.ontoggle = () => open(place);
}
