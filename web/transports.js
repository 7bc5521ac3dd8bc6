/**
 * The transports of pushd.js: WebSocket, Server-Sent Events and long polling.
 *
 * @module transports
 */

// In seconds: how long a response may take, beyond the time that it was asked to wait; and how long
// the server holds a long poll if nothing is published.
const [RESPONSE_TIMEOUT, POLL_WAIT] = [10, 25];
// The longest time that is waited for because of a Retry-After, in seconds.
const MAX_RETRY_AFTER = 300;
// How long the page's token function may take, in seconds.
const TOKEN_TIMEOUT = 10;
// A WebSocket sends a fresh token when this part of the current one's lifetime is over, but not
// within the first second.
const RENEW_AT = 0.8;
// The longest delay of that timer, in seconds: browsers take one above 2 ** 31 ms for zero.
const MAX_RENEW_DELAY = 1e6;
// The reason in the server's close frame, with code 1008, if the token has expired.
const TOKEN_EXPIRED = "token expired";
// The same if the permission that the server's authorizer gave has ended: it may give another.
const PERMISSION_EXPIRED = "permission expired";

/**
 * Build a WebSocket's address from a path on the server that the page came from.
 *
 * @param {string | URL} path What to open, such as `/test/`.
 * @param {string | URL} base The page's address: gives the host, and `wss:` if it is `https:`.
 * @returns {string} An absolute `ws:` or `wss:` URL.
 */
export function webSocketURL(path, base = document.baseURI) {
  const url = new URL(path, base);
  url.protocol = url.protocol === "https:" ? "wss:" : "ws:";
  // In older browsers the WebSocket constructor throws if the URL has a fragment.
  url.hash = "";
  return url.href;
}

/**
 * Whether the browser has what a transport needs. Without it, the transport is left out.
 *
 * @param {string} name The name of a transport.
 * @returns {boolean}
 */
export function isSupported(name) {
  if (name === "websocket") return typeof WebSocket === "function";
  return name !== "sse" || typeof EventSource === "function";
}

/**
 * The transports by name, the preferred one first. Each is a function that opens a connection:
 * `(request, handlers)` returns a function that closes it. The request is `{ url, after, token,
 * tokenSource, heartbeat }`; the last one is the interval of heartbeats in seconds, or 0 for none.
 * The handlers are `onOpen`, `onMessage`, `onHeartbeat`, which gets the interval, and `onEnd`, which
 * gets a `SubscriptionError`, or nothing if the reason is unknown.
 */
export const TRANSPORTS = {
  websocket(request, { onOpen, onMessage, onHeartbeat, onEnd }) {
    const { tokenSource } = request;
    const socket = new WebSocket(webSocketURL(subscriptionURL(request)), "pushd.v1");
    let timer;
    async function renewToken() {
      try {
        const message = JSON.stringify({ token: await requestToken(tokenSource) });
        if (socket.readyState === WebSocket.OPEN) socket.send(message);
      } catch {
        // The current token is still valid; the server closes the connection when it expires.
      }
    }
    // A server that does not choose the subprotocol is not pushd.
    socket.onopen = () => socket.protocol || onEnd();
    socket.onmessage = ({ data }) => {
      const message = JSON.parse(data);
      if ("subscribed" in message) onOpen(message);
      else if ("id" in message) onMessage(message);
      else if ("heartbeat" in message) onHeartbeat(message.heartbeat);
      else if ("expires_in" in message && tokenSource) {
        clearTimeout(timer);
        const delay = within(message.expires_in * RENEW_AT, 1, MAX_RENEW_DELAY);
        timer = setTimeout(renewToken, delay * 1000);
      }
    };
    socket.onclose = ({ code, reason }) => {
      clearTimeout(timer);
      const expired =
        reason === PERMISSION_EXPIRED || (tokenSource && reason === TOKEN_EXPIRED);
      const permanent = code === 1008 && !expired;
      onEnd(permanent && new SubscriptionError(code, reason, true));
    };
    return () => socket.close();
  },

  sse(request, { onOpen, onMessage, onHeartbeat, onEnd }) {
    const source = new EventSource(subscriptionURL(request));
    const on = (type, listener) => source.addEventListener(type, listener);
    on("subscribed", ({ data }) => onOpen(JSON.parse(data)));
    on("message", ({ lastEventId, data }) => onMessage({ id: lastEventId, data }));
    on("json", ({ lastEventId, data }) => onMessage({ id: lastEventId, data: JSON.parse(data) }));
    on("base64", ({ lastEventId, data }) => onMessage({ id: lastEventId, base64: data }));
    on("heartbeat", ({ data }) => onHeartbeat(data));
    // Left alone it would reconnect, but at its own pace and with the old query.
    on("error", () => onEnd());
    return () => source.close();
  },

  longpoll({ url, after, token, tokenSource }, { onOpen, onMessage, onEnd }) {
    const request = new AbortController();
    async function pollForever() {
      // The first response comes at once and says where the subscription begins.
      for (let wait = 0; ; wait = POLL_WAIT) {
        const askedAt = performance.now();
        if (wait && tokenSource) token = await requestToken(tokenSource);
        const { id, recovered, publications } = await poll(url, after, wait, request.signal, token);
        const [epoch, offset] = id.split(":");
        const first = `${epoch}:${offset - publications.length}`;
        if (!wait || !recovered) onOpen({ id: first, recovered });
        publications.forEach(onMessage);
        after = id;
        // If a proxy cuts the wait short, do not poll in a tight loop.
        const early = !publications.length && performance.now() - askedAt < 1000;
        if (wait && early) await new Promise((resolve) => setTimeout(resolve, 1000));
      }
    }
    pollForever().catch((error) => onEnd(error));
    return () => request.abort();
  },
};

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
 * before it at least, in seconds.
 */
class SubscriptionError extends Error {
  constructor(code, message, permanent = false, retryAfter = 0) {
    super(message);
    Object.assign(this, { code, permanent, retryAfter });
  }
}

/**
 * Ask for the publications after an id; if there are none, wait for one.
 *
 * @param {URL} url The topic's address.
 * @param {?string} after The last id, or null to start with the next publication.
 * @param {number} wait How long to wait at most, in seconds.
 * @param {AbortSignal} signal Aborts the request.
 * @param {string} [token]
 * @returns {Promise<{id: string, recovered: boolean, publications: Array<object>}>}
 * @throws {SubscriptionError} If the server answers with an error status.
 */
export function poll(url, after, wait, signal, token) {
  return get(url, { after, wait }, signal, token, (response) => response.json());
}

/**
 * Ask whether the server accepts a subscription; what was published meanwhile is not read.
 *
 * @param {URL} url The topic's address.
 * @param {?string} after The id to resume after, if any.
 * @param {AbortSignal} signal Aborts the request.
 * @param {string} [token]
 * @throws {SubscriptionError} If the server answers with an error status.
 */
export function check(url, after, signal, token) {
  return get(url, { after, wait: 0 }, signal, token, () => {});
}

async function get(url, query, signal, token, read) {
  // Not AbortSignal.any and AbortSignal.timeout, which Safari has since 17.4 and 16 only.
  const request = new AbortController();
  const abort = () => request.abort();
  const timer = setTimeout(abort, (query.wait + RESPONSE_TIMEOUT) * 1000);
  signal.addEventListener("abort", abort);
  if (signal.aborted) abort();
  try {
    const options = { cache: "no-store", headers: headersFor(token), signal: request.signal };
    const response = await fetch(withQuery(url, query), options);
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
    throw new SubscriptionError(401, "the token has characters that no header can hold", true);
  }
  return headers;
}

async function refusal(response) {
  const { status } = response;
  const permanent = status >= 400 && status < 500 && status !== 408 && status !== 429;
  const reason = (await response.text()).slice(0, 200).trim();
  const retryAfter = within(response.headers.get("Retry-After"), 0, MAX_RETRY_AFTER);
  return new SubscriptionError(status, reason, permanent, retryAfter);
}

function subscriptionURL({ url, after, token, heartbeat }) {
  return withQuery(url, { after, token, heartbeat: heartbeat || null });
}

function withQuery(url, parameters) {
  const result = new URL(url);
  for (const [name, value] of Object.entries(parameters)) {
    if (value !== null && value !== undefined) result.searchParams.set(name, value);
  }
  return result.href;
}
