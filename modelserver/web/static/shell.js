// Words for a shell and for curl. Names may hold anything: quotes make them one word, so
// that nothing of a name runs where the line is pasted.

/** For a shell: one word, whatever is in it. */
export function word(text) {
  if (/^[\w@%+=:,./-]+$/.test(text)) return text;
  return `'${text.replaceAll("'", "'\\''")}'`;
}

// curl takes a value's first @ or <, and what follows a semicolon, for its own.
const PLAIN = /^\w[\w.-]*$/;

/** A field of a form. */
export function curlField(name, value) {
  const option = PLAIN.test(value) ? "-F" : "--form-string";
  return `${option} ${word(`${name}=${value}`)}`;
}

/** A file of a form, by its name in the folder where curl runs. */
export function curlFile(field, name) {
  // A name that begins with a dash is no matter after the @.
  const file = PLAIN.test(name) ? name : `"${name.replace(/["\\]/g, "\\$&")}"`;
  return `-F ${word(`${field}=@${file}`)}`;
}

/** A header; what is secret stays a variable of the shell. */
export const curlHeader = (name, value) => `-H ${word(`${name}: ${value}`)}`;
export const CURL_TOKEN = '-H "X-API-Key: $API_TOKEN"';

/** The command, one word of it a line. */
export const curlLine = (words) => `curl ${words.join(" \\\n  ")}`;
