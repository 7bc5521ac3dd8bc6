/**
 * The transports of one topic: WebSocket, Server-Sent Events and long polling.
 *
 * @module transports
 */

import { RequestError, poll, requestToken, withQuery, within } from "./requests.js";

// How long the server holds a long poll if nothing is published, in seconds.
const POLL_WAIT = 25;
// A WebSocket sends a fresh token when this part of the current one's lifetime is over, but not
// within the first second.
const RENEW_AT = 0.8;
// The longest delay of that timer, in seconds: browsers take one above 2 ** 31 ms for zero.
const MAX_RENEW_DELAY = 1e6;
// The reason in the server's close frame, with code 1008, if the token has expired.
const TOKEN_EXPIRED = "token expired";
// The same if the permission that the server's authorizer gave has ended: it may give another.
const PERMISSION_EXPIRED = "permission expired";

/** What stands for the reason if the server gives none. */
export const NO_REASON = "the server gave no reason";

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
 * The transports by name. Each is a function that opens a connection: `(request, handlers)` returns
 * a function that closes it. The request is `{ url, after, format, token, tokenSource, heartbeat
 * }`; the last one is the interval of heartbeats in seconds, or 0 for none. The handlers are `onOpen`,
 * `onMessage`, `onHeartbeat`, which gets the interval, and `onEnd`, which gets a `RequestError`, or
 * nothing if the reason is unknown.
 */
export const TRANSPORTS = {
  websocket(request, { onOpen, onMessage, onHeartbeat, onEnd }) {
    function onFrame(message) {
      if ("subscribed" in message) onOpen(message);
      else if ("id" in message) onMessage(message);
    }
    const { socket } = openSocket(subscriptionURL(request), request, { onFrame, onHeartbeat, onEnd });
    return () => socket.close();
  },

  sse(request, { onOpen, onMessage, onHeartbeat, onEnd }) {
    // In an envelope, as an EventSource hears no event whose name it does not know.
    const source = new EventSource(withQuery(subscriptionURL(request), { envelope: 1 }));
    const on = (type, listener) => source.addEventListener(type, listener);
    on("subscribed", ({ data }) => onOpen(JSON.parse(data)));
    on("message", ({ data }) => onMessage(JSON.parse(data)));
    on("heartbeat", ({ data }) => onHeartbeat(data));
    // Left alone it would reconnect, but at its own pace and with the old query.
    on("error", () => onEnd());
    return () => source.close();
  },

  longpoll({ url, after, format, token, tokenSource }, { onOpen, onMessage, onEnd }) {
    const ask = (wait, signal, token) => {
      return poll(withQuery(url, { after, format, wait }), wait, signal, token);
    };
    return pollForever(ask, { token, tokenSource }, onEnd, (answer, isFirst) => {
      const { id, recovered, publications } = answer;
      const [epoch, offset] = id.split(":");
      const first = `${epoch}:${offset - publications.length}`;
      if (isFirst || !recovered) onOpen({ id: first, recovered });
      publications.forEach(onMessage);
      after = id;
    });
  },
};

/**
 * Open a WebSocket with the subprotocol `pushd.v1`, and renew its token in time.
 *
 * @param {string | URL} url
 * @param {{tokenSource: ?(() => string | Promise<string>)}} request
 * @param {object} handlers `onFrame`, which gets the JSON of each frame that is neither a heartbeat
 *   nor about the token; `onHeartbeat` and `onEnd` as in `TRANSPORTS`; `onReady` if the page may send.
 * @returns {{socket: WebSocket, send: (message: object) => void}}
 */
export function openSocket(url, { tokenSource }, { onReady, onFrame, onHeartbeat, onEnd }) {
  const socket = new WebSocket(webSocketURL(url), "pushd.v1");
  let timer;
  function send(message) {
    if (socket.readyState === WebSocket.OPEN) socket.send(JSON.stringify(message));
  }
  async function renewToken() {
    try {
      send({ token: await requestToken(tokenSource) });
    } catch {
      // The current token is still valid; the server closes the connection when it expires.
    }
  }
  // A server that does not choose the subprotocol is not pushd.
  socket.onopen = () => (socket.protocol ? onReady?.() : onEnd());
  socket.onmessage = ({ data }) => {
    const message = JSON.parse(data);
    if ("heartbeat" in message) onHeartbeat(message.heartbeat);
    else if (!("expires_in" in message)) onFrame(message);
    else if (tokenSource) {
      clearTimeout(timer);
      const delay = within(message.expires_in * RENEW_AT, 1, MAX_RENEW_DELAY);
      timer = setTimeout(renewToken, delay * 1000);
    }
  };
  socket.onclose = ({ code, reason }) => {
    clearTimeout(timer);
    const expired = reason === PERMISSION_EXPIRED || (tokenSource && reason === TOKEN_EXPIRED);
    const permanent = code === 1008 && !expired;
    onEnd(permanent && new RequestError(code, reason || NO_REASON, true));
  };
  return { socket, send };
}

/**
 * Poll until the returned function is called, or a poll fails.
 *
 * @param {(wait: number, signal: AbortSignal, token: ?string) => Promise<object>} ask Polls once.
 * @param {{token: ?string, tokenSource: ?(() => string | Promise<string>)}} request
 * @param {(error: Error) => void} onEnd Called if a poll fails.
 * @param {(answer: object, isFirst: boolean) => number} onAnswer Called with each response; the
 *   first one comes at once and says where the subscription begins.
 * @returns {() => void}
 */
export function pollForever(ask, { token, tokenSource }, onEnd, onAnswer) {
  const request = new AbortController();
  async function loop() {
    for (let wait = 0; ; wait = POLL_WAIT) {
      const askedAt = performance.now();
      if (wait && tokenSource) token = await requestToken(tokenSource);
      const answer = await ask(wait, request.signal, token);
      onAnswer(answer, !wait);
      // If a proxy cuts the wait short, do not poll in a tight loop.
      const early = !answer.publications.length && performance.now() - askedAt < 1000;
      if (wait && early) await new Promise((resolve) => setTimeout(resolve, 1000));
    }
  }
  loop().catch((error) => onEnd(error));
  return () => request.abort();
}

function subscriptionURL({ url, after, format, token, heartbeat }) {
  return withQuery(url, { after, format, token, heartbeat: heartbeat || null });
}
