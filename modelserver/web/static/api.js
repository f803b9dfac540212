// Requests to the server, and the meaning of its answers.

const facts = document.body.dataset;

/** The facts about the server that the page came with. */
export const server = {
  root: facts.root,
  paths: JSON.parse(facts.paths), // where photos are posted, by the kind of model
  usual: Number(facts.usual), // its MIN_CONFIDENCE
  lowest: Number(facts.lowest), // what the page asks for, so that the slider can filter
  maxMb: Number(facts.maxMb),
  wantsToken: "token" in facts,
};
const TOP_K = 5;

export const detects = (model) => model.kind === "detection";
export const urlOf = (model) => location.origin + server.paths[model.kind];

/** The fields of the page's own request, besides the model. */
const fieldsOf = (model) =>
  detects(model) ? { min_confidence: server.lowest } : { top_k: TOP_K };

/** The same for somebody else's request, which needs no slider. */
export function fieldsAt(kind, confidence) {
  if (kind !== "detection") return fieldsOf({ kind });
  return confidence === server.usual ? {} : { min_confidence: confidence };
}

export const credentials = (token) => (token ? { "X-API-Key": token } : {});

const failure = (title, detail, more = {}) => ({ state: "failed", title, detail, ...more });

/**
 * Evaluate a photo. Never throws: an answer has the state "done", with items, body
 * and timings, and none if no class holds, or "failed", with title and detail, and
 * after if the server says so.
 */
export async function evaluate(shot, model, token) {
  const mb = shot.file.size / 2 ** 20;
  if (mb > server.maxMb) {
    const words = `This photo has ${Math.ceil(mb)} MiB, and the server takes ${server.maxMb}.`;
    return failure("The photo is too large", words);
  }
  const body = new FormData();
  body.append("modelname", model.name);
  for (const [name, value] of Object.entries(fieldsOf(model))) body.append(name, value);
  body.append("file", shot.file, shot.name);
  const headers = { Accept: "application/json", ...credentials(token) };
  const { signal } = shot.stop;
  const started = performance.now();
  try {
    const response = await fetch(urlOf(model), { method: "POST", body, headers, signal });
    const answer = parse(await response.text());
    if (!response.ok) return readProblem(response, answer);
    return readAnswer(model, answer, timings(response, performance.now() - started));
  } catch (error) {
    if (!(error instanceof TypeError)) throw error;
    const words = "Nothing answered. Is the server running, and the photo still there?";
    return failure("The server cannot be reached", words, { again: true, unreachable: true });
  }
}

function parse(text) {
  try {
    return JSON.parse(text);
  } catch {
    return null;
  }
}

function readAnswer(model, body, timings) {
  const items = detects(model) ? body : body?.classes ?? [{ label: body?.class }];
  if (Array.isArray(items) && items.every((item) => typeof item?.label === "string")) {
    return { state: "done", items, none: body.class === null, body, timings };
  }
  return failure("The answer is not understood", "What answers here is no ModelServer.");
}

/** Read an answer that is no 200; a proxy's page says nothing but its status. */
function readProblem({ status, headers }, problem) {
  const after = Number(headers.get("Retry-After")) || 0;
  const title = problem?.title || `Error ${status}`;
  const detail = problem?.detail || `The server answered ${status} without a reason.`;
  const type = /^\/problems\/[a-z-]+$/.test(problem?.type) ? problem.type : "";
  const again = status >= 500 || [401, 408, 429].includes(status);
  return failure(title, detail, { status, again, after, type });
}

/** Milliseconds of each stage, from Server-Timing and the browser's clock. */
function timings({ headers }, took) {
  const stages = {};
  for (const entry of (headers.get("Server-Timing") || "").split(",")) {
    const [, name, ms] = /^\s*([\w-]+);dur=([\d.]+)/.exec(entry) ?? [];
    if (name) stages[name] = Number(ms);
  }
  const { total, ...known } = stages;
  if (total === undefined) return { network: took };
  const sum = Object.values(known).reduce((all, ms) => all + ms, 0);
  return { ...known, other: Math.max(0, total - sum), network: Math.max(0, took - total) };
}
