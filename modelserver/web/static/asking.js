// One request to the server, and what its answer means.

const told = document.body.dataset;

/** What the page was told about the server. */
export const server = {
  root: told.root,
  paths: JSON.parse(told.paths), // where photos are posted, by the kind of model
  usual: Number(told.usual), // its MIN_CONFIDENCE
  lowest: Number(told.lowest), // what the page asks for, so that the slider can filter
  maxMb: Number(told.maxMb),
  wantsToken: "token" in told,
};
const TOP_K = 5;

export const detects = (model) => model.kind === "detection";
export const urlOf = (model) => location.origin + server.paths[model.kind];

/** The fields that say what is wanted beyond the model, as the page asks for it. */
const wanted = (model) =>
  detects(model) ? { min_confidence: server.lowest } : { top_k: TOP_K };

/** The same as fields for somebody else's request, which need no slider. */
export function wantedAt(model, confidence) {
  if (!detects(model)) return wanted(model);
  return confidence === server.usual ? {} : { min_confidence: confidence };
}

export const credentials = (token) => (token ? { "X-API-Key": token } : {});

const failed = (title, detail, more = {}) => ({ state: "failed", title, detail, ...more });

/**
 * Evaluate a photo. Never throws: an answer has the state "done", with items, body
 * and timings, and none where no class holds, or "failed", with title and detail, and
 * after where it says so.
 */
export async function evaluate(shot, model, token) {
  const mb = shot.file.size / 2 ** 20;
  if (mb > server.maxMb) {
    const words = `This photo has ${Math.ceil(mb)} MiB, and the server takes ${server.maxMb}.`;
    return failed("The photo is too large", words);
  }
  const body = new FormData();
  body.append("modelname", model.name);
  for (const [name, value] of Object.entries(wanted(model))) body.append(name, value);
  body.append("file", shot.file, shot.name);
  const headers = { Accept: "application/json", ...credentials(token) };
  const { signal } = shot.stop;
  const begun = performance.now();
  try {
    const response = await fetch(urlOf(model), { method: "POST", body, headers, signal });
    const answer = parsed(await response.text());
    if (!response.ok) return refused(response, answer);
    return understood(model, answer, timings(response, performance.now() - begun));
  } catch (error) {
    if (!(error instanceof TypeError)) throw error;
    const words = "Nothing answered. Is the server running, and the photo still there?";
    return failed("The server cannot be reached", words, { again: true });
  }
}

function parsed(text) {
  try {
    return JSON.parse(text);
  } catch {
    return null;
  }
}

function understood(model, body, timings) {
  const items = detects(model) ? body : body?.classes ?? [{ label: body?.class }];
  if (Array.isArray(items) && items.every((item) => typeof item?.label === "string")) {
    return { state: "done", items, none: body.class === null, body, timings };
  }
  return failed("The answer is not understood", "What answers here is no ModelServer.");
}

/** What an answer that is no 200 says; a proxy's page says nothing but its status. */
function refused({ status, headers }, problem) {
  const after = Number(headers.get("Retry-After")) || 0;
  const title = problem?.title || `Error ${status}`;
  const detail = problem?.detail || `The server answered ${status} without a reason.`;
  const type = /^\/problems\/[a-z-]+$/.test(problem?.type) ? problem.type : "";
  const again = status >= 500 || [401, 408, 429].includes(status);
  return failed(title, detail, { status, again, after, type });
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
