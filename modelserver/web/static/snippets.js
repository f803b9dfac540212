// The request of the page as code to copy. Names may hold anything: each language's own
// quotes make them one literal, so that nothing of a name runs where it is pasted.

import { detects, server, urlOf } from "./api.js";

/** For a shell: one word, whatever is in it. */
function word(text) {
  if (/^[\w@%+=:,./-]+$/.test(text)) return text;
  return `'${text.replaceAll("'", "'\\''")}'`;
}

/** A literal of Python and JavaScript alike. */
function quote(value) {
  const code = (c) => `\\u${c.charCodeAt(0).toString(16).padStart(4, "0")}`;
  return JSON.stringify(value).replace(/[\u007f-\u009f\u2028\u2029]/g, code);
}

// curl takes a value's first @ or <, and what follows a semicolon, for its own.
const PLAIN = /^\w[\w.-]*$/;

function curlField(name, value) {
  const option = PLAIN.test(value) ? "-F" : "--form-string";
  return `${option} ${word(`${name}=${value}`)}`;
}

function curlFile(name) {
  // A name that begins with a dash is no matter after the @.
  return PLAIN.test(name) ? name : `"${name.replace(/["\\]/g, "\\$&")}"`;
}

const TOKEN = 'os.environ["API_TOKEN"]';

/**
 * Code by language. Each takes a model, the photo's name, fields that say what
 * is wanted, and whether a token is; the token itself is never shown.
 */
export const snippets = {
  curl({ model, photo, extra, secret }) {
    const fields = Object.entries({ modelname: model.name, ...extra });
    const parts = [
      ...(secret ? ['-H "X-API-Key: $API_TOKEN"'] : []),
      ...fields.map(([name, value]) => curlField(name, String(value))),
      `-F ${word(`file=@${curlFile(photo)}`)}`,
      word(urlOf(model)),
    ];
    return `curl ${parts.join(" \\\n  ")}`;
  },

  client({ model, photo, extra, secret }) {
    const options = Object.entries(extra).map(([name, value]) => `, ${name}=${value}`);
    const names = `${quote(model.name)}, ${quote(photo)}${options.join("")}`;
    const use = detects(model)
      ? `    for one in client.detect(${names}):
        print(one.label, one.confidence, one.box)`
      : `    print(client.classify(${names}).classes)`;
    const address = quote(location.origin + server.root);
    return `${secret ? "import os\n\n" : ""}from modelserver.client import Client

with Client(${address}${secret ? `, token=${TOKEN}` : ""}) as client:
${use}`;
  },

  requests({ model, photo, extra, secret }) {
    const headers = secret ? `\n        headers={"X-API-Key": ${TOKEN}},` : "";
    return `${secret ? "import os\n\n" : ""}import requests

with open(${quote(photo)}, "rb") as photo:
    response = requests.post(
        ${quote(urlOf(model))},
        data=${quote({ modelname: model.name, ...extra })},
        files={"file": ("photo", photo)},${headers}
        timeout=60,
    )
if not response.ok:
    raise SystemExit(response.text)
print(response.json())`;
  },

  javascript({ model, extra, secret }) {
    const fields = Object.entries({ modelname: model.name, ...extra });
    const headers = secret ? ', headers: { "X-API-Key": token }' : "";
    const lines = fields.map(([name, value]) => `form.append("${name}", ${quote(value)});`);
    return `const form = new FormData();
${lines.join("\n")}
form.append("file", document.querySelector("input[type=file]").files[0]);
const response = await fetch(${quote(urlOf(model))}, { method: "POST", body: form${headers} });
if (!response.ok) throw new Error((await response.json()).detail);
console.log(await response.json());`;
  },
};

/** Copy an element's text. */
export async function copyText(node) {
  try {
    await navigator.clipboard.writeText(node.textContent);
  } catch {
    // Over plain HTTP from another machine a page has no clipboard.
    getSelection().selectAllChildren(node);
    document.execCommand("copy");
  }
}
