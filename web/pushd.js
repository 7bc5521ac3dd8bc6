/**
 * Client for pushd topics: `import { connect, subscribe } from "/pushd.js"`.
 *
 * @module pushd
 */

import { callSafely, keepOpen, publicationOf } from "./connection.js";
import { check, withQuery } from "./requests.js";
import { TRANSPORTS } from "./transports.js";

export { connect } from "./multiplex.js";
export { webSocketURL } from "./transports.js";

/**
 * Subscribe to a topic until `close()` is called.
 *
 * Reconnects after each failure and resumes after the last id: publications are neither lost nor
 * repeated, unless the server no longer has them (`recovered: false`). A connection that has died
 * without a word is noticed within a minute, as the server sends heartbeats. If a transport is
 * blocked, the next one is used, and from time to time the better ones are tried again.
 *
 * @param {string | URL} url The topic's address, such as `/topics/news`.
 * @param {(publication: {id: string, data: unknown, event?: string, conflated?: number}) => void}
 *   onPublication Called once for each publication, in order. `data` is text, or a `Uint8Array` if
 *   bytes were published; `event` is the name of its event, if it has one; `conflated` is the number
 *   of publications that it replaces in a topic of which only the latest value counts.
 * @param {object} [options]
 * @param {ReadonlyArray<"websocket" | "sse" | "longpoll">} [options.transports] The transports to
 *   try, the preferred one first; by default all three, in this order.
 * @param {() => string | Promise<string>} [options.token] Returns a valid token. Called before
 *   each connection, and again before the token in use expires. If it throws, or takes longer than
 *   10 s, it is called again later.
 * @param {?string} [options.after] The id of the last publication that the page has: the first
 *   connection resumes after it.
 * @param {"json"} [options.format] Has what was published as JSON arrive as a value, not as text.
 * @param {number} [options.heartbeat] Seconds from one heartbeat of the server to the next, from 1
 *   to 25; 25 by default. With 0 there are none, and dead connections are noticed late.
 * @param {(state: State) => void} [options.onState] Called at each change of the state, which is
 *   one of:
 *   `{ state: "connecting", transport }`;
 *   `{ state: "open", transport, id, recovered }`: the next publication follows this id;
 *   `recovered: false` means that earlier ones may be lost, so the page must reload its data;
 *   `{ state: "waiting", seconds }`: reconnects after this delay, or as soon as the browser is
 *   online or the page is visible again;
 *   `{ state: "closed", code, reason }`: final. Closed by the page (1000), closed by the server
 *   (1008), refused by the server (an HTTP status, 400 or higher), or impossible because the
 *   browser has none of the transports (0).
 * @returns {{readonly id: ?string, readonly state: State, close: () => void}} The last id, the
 *   current state, and a function that ends the subscription.
 * @throws {TypeError} If `transports` is empty or has an unknown name.
 */
export function subscribe(url, onPublication, options = {}) {
  const { after = null, format = null, onState = () => {} } = options;
  const topic = new URL(url, document.baseURI);
  // The last id, and the one that the current connection has resumed after.
  let [id, resumeId] = [after || null, null];

  function open(transport, request, handlers) {
    const position = request.isTrial ? null : id;
    if (!request.isTrial) resumeId = id;
    return TRANSPORTS[transport]({ ...request, url: topic, after: position, format }, handlers);
  }
  function onOpen({ id: first, recovered }) {
    // Without an id to resume after, nothing can be lost.
    const details = { id: first, recovered: resumeId === null || recovered };
    id = resumeId = first;
    return details;
  }
  function onMessage(message) {
    id = message.id;
    callSafely(onPublication, publicationOf(message));
  }
  const connection = keepOpen(options, {
    open,
    check: (signal, token) => check(withQuery(topic, { after: id, wait: 0 }), signal, token),
    onOpen,
    onMessage,
    onState: (state) => callSafely(onState, state),
  });
  connection.reconnect();
  return {
    get id() { return id; },
    get state() { return connection.state; },
    close: () => connection.close(1000, "closed by the page"),
  };
}
