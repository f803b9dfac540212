// The request of the page as code to copy: the same models and the same photos. Names may
// hold anything: each language's own quotes make them one literal, so that nothing of a
// name runs where it is pasted.

import { detects, fieldsAt, server, urlOf } from "./api.js";
import { CURL_TOKEN, curlField, curlFile, curlLine, word } from "./shell.js";
import { view } from "./view.js";

const MOST_FILES = 32; // of a request
const TOKEN = 'os.environ["API_TOKEN"]';

/** A literal of Python and JavaScript alike. */
function quote(value) {
  const code = (c) => `\\u${c.charCodeAt(0).toString(16).padStart(4, "0")}`;
  return JSON.stringify(value).replace(/[\u007f-\u009f\u2028\u2029]/g, code);
}

/** One request for each kind of model: its address, models and options. */
function requestsFor(models) {
  const kinds = [...new Set(models.map(({ kind }) => kind))];
  return kinds.map((kind) => {
    const of = models.filter((model) => model.kind === kind);
    return { kind, url: urlOf(of[0]), names: of.map(({ name }) => name), extra: fieldsAt(kind, view.least) };
  });
}

const fieldsOf = ({ names, extra }) => [...names.map((name) => ["modelname", name]), ...Object.entries(extra)];

/** The page's request in a language, about photos of some names. */
export function codeOf(language, models, names, secret) {
  const photos = names.slice(0, language === "client" ? names.length : MOST_FILES);
  const remark = language === "curl" || language === "requests" ? "#" : "//";
  const left = names.length > photos.length;
  const note = left ? `${remark} ${MOST_FILES} of ${names.length} photos: a request takes no more.\n` : "";
  return note + languages[language](requestsFor(models), photos.length ? photos : ["photo.jpg"], secret);
}

const languages = {
  curl(requests, photos, secret) {
    const one = (request) => {
      const lines = secret ? [CURL_TOKEN] : [];
      for (const [name, value] of fieldsOf(request)) lines.push(curlField(name, String(value)));
      for (const photo of photos) lines.push(curlFile("file", photo));
      return curlLine([...lines, word(request.url)]);
    };
    return requests.map(one).join("\n");
  },

  client(requests, photos, secret) {
    const one = ({ kind, names, extra }) => {
      const options = Object.entries(extra).map(([name, value]) => `, ${name}=${value}`).join("");
      const call = (model, photo) => `client.${detects({ kind }) ? "detect" : "classify"}(${model}, ${photo}${options})`;
      if (photos.length * names.length > 1) {
        return `    for photo in ${quote(photos)}:
        for model in ${quote(names)}:
            print(photo, ${call("model", "photo")})`;
      }
      const found = call(quote(names[0]), quote(photos[0]));
      if (!detects({ kind })) return `    print(${found}.classes)`;
      return `    for one in ${found}:
        print(one.label, one.confidence, one.box)`;
    };
    const address = quote(location.origin + server.root);
    return `# pip install .  (in a clone of ModelServer)
${secret ? "import os\n\n" : ""}from modelserver.client import Client

with Client(${address}${secret ? `, token=${TOKEN}` : ""}) as client:
${requests.map(one).join("\n")}`;
  },

  requests(requests, photos, secret) {
    const headers = secret ? `\n    headers={"X-API-Key": ${TOKEN}},` : "";
    const files =
      photos.length > 1
        ? `[("file", (name, open(name, "rb"))) for name in ${quote(photos)}]`
        : `{"file": ("photo", open(${quote(photos[0])}, "rb"))}`;
    const one = ({ url, names, extra }) => `response = requests.post(
    ${quote(url)},
    data=${quote({ modelname: names.length > 1 ? names : names[0], ...extra })},
    files=${files},${headers}
    timeout=60,
)
if not response.ok:
    raise SystemExit(response.text)
print(response.json())`;
    return `# pip install requests
${secret ? "import os\n\n" : ""}import requests

${requests.map(one).join("\n\n")}`;
  },

  javascript(requests, photos, secret) {
    const several = photos.length > 1 ? ", multiple: true" : "";
    const files = "for (const photo of input.files) form.append(\"file\", photo);";
    return `// In the console of this page, or of a site in the server's CORS_ORIGINS: it adds a
// field to choose ${photos.length > 1 ? "photos" : "a photo"} with at the top of the page.
{${secret ? '\n  const token = prompt("API token");' : ""}
  const input = Object.assign(document.createElement("input"), { type: "file"${several} });
  document.body.prepend(input);
  input.addEventListener("change", async () => {
${requests.map((one) => posted(one, files, secret && "token", "    ")).join("\n")}
  });
}`;
  },

  node(requests, photos, secret) {
    const files = `for (const photo of ${quote(photos)}) form.append("file", new Blob([await readFile(photo)]), photo);`;
    return `// Node.js 18 or later: node ask.mjs
import { readFile } from "node:fs/promises";

${requests.map((one) => posted(one, files, secret && "process.env.API_TOKEN", "")).join("\n")}`;
  },
};

/** A request of JavaScript's, in a block of its own. */
function posted(request, files, token, indent) {
  const headers = token ? `, headers: { "X-API-Key": ${token} }` : "";
  const lines = [
    "{",
    "  const form = new FormData();",
    ...fieldsOf(request).map(([name, value]) => `  form.append("${name}", ${quote(value)});`),
    `  ${files}`,
    `  const response = await fetch(${quote(request.url)}, { method: "POST", body: form${headers} });`,
    "  if (!response.ok) throw new Error((await response.json()).detail);",
    "  console.log(JSON.stringify(await response.json(), null, 2));",
    "}",
  ];
  return lines.map((line) => indent + line).join("\n");
}
