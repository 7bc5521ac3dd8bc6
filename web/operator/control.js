/**
 * Requests to the control port.
 *
 * @module control
 */

/** What the daemon answers if it refuses. */
export class Refused extends Error {
  /** @param {number} status */
  constructor(status, reason) {
    super(reason);
    this.status = status;
  }
}

/** Make the URL of a path, with those parameters that are not empty. */
export function urlOf(path, parameters = {}) {
  const query = new URLSearchParams();
  for (const [name, text] of Object.entries(parameters)) if (text !== "") query.set(name, text);
  return `${query}` ? `${path}?${query}` : path;
}

/**
 * Send a request, and return the JSON of the answer; null if it has no body.
 *
 * @throws {Refused} If the daemon refuses it, or cannot be reached.
 */
export async function ask(url, options = {}) {
  let response;
  try {
    response = await fetch(url, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refused(0, "The daemon cannot be reached.");
  }
  if (response.status === 204) return null;
  const text = await response.text();
  if (!response.ok) throw new Refused(response.status, reasonOf(text) || `It answered ${response.status}.`);
  return JSON.parse(text);
}

function reasonOf(text) {
  try {
    return JSON.parse(text).error;
  } catch {
    return text.trim();
  }
}
