// The token, saved in this tab only: other tabs and later visits do not know it.

const NAME = "modelserver-token";

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
