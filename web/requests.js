/**
 * HTTP requests with a token, their errors, and the page's token function.
 *
 * @module requests
 */

// How long a response may take, beyond the time that it was asked to wait, in seconds.
const RESPONSE_TIMEOUT = 10;
// The longest time that is waited for because of a Retry-After, in seconds.
const MAX_RETRY_AFTER = 300;
// How long the page's token function may take, in seconds.
const TOKEN_TIMEOUT = 10;

/**
 * Call the page's token function.
 *
 * @param {() => string | Promise<string>} tokenSource
 * @returns {Promise<string>} The token, without blanks and line ends around it; rejected if none
 *   came within 10 s.
 */
export async function requestToken(tokenSource) {
  // Called first: if it throws, a timeout's rejection would be left unhandled.
  const token = tokenSource();
  const error = new Error(`the token function gave no token within ${TOKEN_TIMEOUT} s`);
  let timer;
  const timeout = new Promise((_, reject) => {
    timer = setTimeout(reject, TOKEN_TIMEOUT * 1000, error);
  });
  try {
    const given = await Promise.race([token, timeout]);
    return typeof given === "string" ? given.trim() : given;
  } finally {
    clearTimeout(timer);
  }
}

/**
 * Return a number from outside within bounds; what is no number becomes the lower one.
 *
 * @param {unknown} value
 * @param {number} least
 * @param {number} most
 * @returns {number}
 */
export function within(value, least, most) {
  return Math.min(Math.max(Number(value) || 0, least), most);
}

/**
 * Why a connection ended: a close code or an HTTP status, and the server's reason.
 *
 * `permanent` means that another attempt would fail as well; `retryAfter` is how long to wait
 * before it at least, in seconds; `details` is the JSON of the server's response, or empty.
 */
export class RequestError extends Error {
  constructor(code, message, permanent = false, retryAfter = 0, details = {}) {
    super(message);
    Object.assign(this, { code, permanent, retryAfter, details });
  }
}

/**
 * Ask for publications; if there are none, wait for one.
 *
 * @param {string | URL} url What to ask for, and to wait for so long.
 * @param {number} wait How long the server waits at most, in seconds.
 * @param {AbortSignal} signal Aborts the request.
 * @param {string} [token]
 * @returns {Promise<object>} The response.
 * @throws {RequestError} If the server answers with an error status.
 */
export function poll(url, wait, signal, token) {
  return get(url, wait, signal, token, (response) => response.json());
}

/**
 * Ask whether the server accepts a subscription; what was published meanwhile is not read.
 *
 * @param {string | URL} url What to ask for, without waiting for it.
 * @param {AbortSignal} signal Aborts the request.
 * @param {string} [token]
 * @throws {RequestError} If the server answers with an error status.
 */
export function check(url, signal, token) {
  return get(url, 0, signal, token, () => {});
}

/**
 * Add parameters to the query of a URL.
 *
 * @param {string | URL} url
 * @param {object} parameters Their values by their names; null and undefined are left out.
 * @returns {URL}
 */
export function withQuery(url, parameters) {
  const result = new URL(url);
  for (const [name, value] of Object.entries(parameters)) {
    if (value !== null && value !== undefined) result.searchParams.set(name, value);
  }
  return result;
}

async function get(url, wait, signal, token, read) {
  // Not AbortSignal.any and AbortSignal.timeout, which Safari has since 17.4 and 16 only.
  const request = new AbortController();
  const abort = () => request.abort();
  const timer = setTimeout(abort, (wait + RESPONSE_TIMEOUT) * 1000);
  signal.addEventListener("abort", abort);
  if (signal.aborted) abort();
  try {
    const options = { cache: "no-store", headers: headersFor(token), signal: request.signal };
    const response = await fetch(url, options);
    if (!response.ok) throw await refusal(response);
    return await read(response);
  } finally {
    clearTimeout(timer);
    signal.removeEventListener("abort", abort);
    // Ends a response that was not read.
    abort();
  }
}

function headersFor(token) {
  const headers = new Headers({ Accept: "application/json" });
  try {
    if (token) headers.set("Authorization", `Bearer ${token}`);
  } catch {
    throw new RequestError(401, "the token has characters that no header can hold", true);
  }
  return headers;
}

async function refusal(response) {
  const { status } = response;
  const permanent = status >= 400 && status < 500 && status !== 408 && status !== 429;
  const text = await response.text();
  const retryAfter = within(response.headers.get("Retry-After"), 0, MAX_RETRY_AFTER);
  const details = parse(text);
  const given = typeof details.error === "string" ? details.error : text.slice(0, 200);
  // A proxy may answer without a body, and HTTP/2 has no phrase beside the status.
  const answer = `the server answered ${status} ${response.statusText}`;
  return new RequestError(status, given.trim() || answer.trim(), permanent, retryAfter, details);
}

function parse(text) {
  try {
    return Object(JSON.parse(text));
  } catch {
    return {}; // Not pushd's answer, but a proxy's.
  }
}
