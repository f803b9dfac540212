// The token, kept in this tab only: other tabs and later visits do not know it.

const NAME = "modelserver-token";

/** Keep a token, or forget the one that is kept. */
export function keep(token) {
  try {
    if (token) sessionStorage.setItem(NAME, token);
    else sessionStorage.removeItem(NAME);
  } catch {
    // The browser keeps nothing for this site: it is known until the page is left.
  }
}

/** The token that is kept, or nothing. */
export function kept() {
  try {
    return sessionStorage.getItem(NAME) ?? "";
  } catch {
    return "";
  }
}
