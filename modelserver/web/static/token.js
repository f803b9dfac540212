// The API token, where the server wants one: asked for, kept for this tab, and sent.

const NAME = "modelserver-token";
const $ = (id) => document.getElementById(id);
let value = "";

/** Save a token, or forget the one that is saved. */
export function saveToken(token) {
  try {
    if (token) sessionStorage.setItem(NAME, token);
    else sessionStorage.removeItem(NAME);
  } catch {
    // The browser keeps nothing for this site: it is known until the page is left.
  }
}

/** The token that is saved, or nothing. */
export function savedToken() {
  try {
    return sessionStorage.getItem(NAME) ?? "";
  } catch {
    return "";
  }
}

/** The token in use; empty if there is none. */
export const token = () => value;

function remember(given) {
  value = given;
  saveToken(given);
  $("token-used").hidden = !given;
}

/** Show the form, and forget a token that the server did not take. */
export function askForToken() {
  const words = value
    ? "The server does not take this token."
    : "This server asks for a token. It is kept until this tab is closed, and sent to this server only.";
  remember("");
  $("token-help").textContent = words;
  $("token-form").hidden = false;
  $("token").focus();
}

/** Hide the form: the server takes the token, or wants none. */
export const tokenTaken = () => ($("token-form").hidden = true);

/** Use the saved token, and `given` is called with each that is typed. */
export function offerToken(given) {
  remember(savedToken());
  $("token-form").onsubmit = (event) => {
    event.preventDefault();
    remember($("token").value.trim());
    $("token").value = "";
    given();
  };
  $("token-forget").onclick = () => {
    remember("");
    askForToken();
  };
}
