/**
 * Client for pushd topics: `import { subscribe } from "/pushd.js"`.
 *
 * @module pushd
 */

import { TRANSPORTS, check, isSupported, requestToken, within } from "./transports.js";

export { webSocketURL } from "./transports.js";

// All in seconds.
// A reconnect is delayed by a random time up to BACKOFF_MIN; the limit doubles with each further
// attempt, up to BACKOFF_MAX, and is reset by a connection that stayed open for STABLE_AFTER.
const [BACKOFF_MIN, BACKOFF_MAX, STABLE_AFTER] = [0.5, 20, 5];
// How long a transport may take to open.
const OPEN_TIMEOUT = 10;
// A reconnect that comes this long after a fallback tries the preferred transport again. As long as
// the connection stays open, better transports are tried after this time, and again after twice the
// last one, up to MAX_TRY_DELAY, times a random factor from 0.75 to 1.25.
const [FALLBACK_PERIOD, MAX_TRY_DELAY] = [60, 600];
// The interval of the server's heartbeats, and the longest. A connection on which nothing is heard
// for an interval, and as long again but no longer than HEARTBEAT_GRACE, is dead.
const [HEARTBEAT, MAX_HEARTBEAT, HEARTBEAT_GRACE] = [25, 25, 10];
// Before it is given up: what has arrived while the page was suspended must be read first.
const LAST_LOOK = 1;
// How often in a row that time is doubled at most, for messages that take long to arrive.
const MAX_DOUBLINGS = 5;

/**
 * Subscribe to a topic until `close()` is called.
 *
 * Reconnects after each failure and resumes after the last id: publications are neither lost nor
 * repeated, unless the server no longer has them (`recovered: false`). A connection that has died
 * without a word is noticed within a minute, as the server sends heartbeats. If a transport is
 * blocked, the next one is used, and from time to time the better ones are tried again.
 *
 * @param {string | URL} url The topic's address, such as `/topics/news`.
 * @param {(publication: {id: string, data: string | Uint8Array}) => void} onPublication Called once
 *   for each publication, in order. `data` is a `Uint8Array` if bytes were published.
 * @param {object} [options]
 * @param {Array<"websocket" | "sse" | "longpoll">} [options.transports] The transports to try, the
 *   preferred one first; by default all three, in this order.
 * @param {() => string | Promise<string>} [options.token] Returns a valid token. Called before
 *   each connection, and again before the token in use expires. If it throws, or takes longer than
 *   10 s, it is called again later.
 * @param {?string} [options.after] The id of the last publication that the page has: the first
 *   connection resumes after it.
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
  const known = Object.keys(TRANSPORTS);
  const { transports: wanted = known, token: tokenSource, after = null } = options;
  const { heartbeat: interval = HEARTBEAT, onState = () => {} } = options;
  if (!wanted.length || !wanted.every((name) => known.includes(name))) {
    const rule = `transports must list one or more of ${known.join(", ")}`;
    throw new TypeError(`${rule}; got [${wanted.join(", ")}]`);
  }
  const transports = wanted.filter(isSupported);
  const heartbeat = interval && within(Math.round(interval), 1, MAX_HEARTBEAT);
  const topic = new URL(url, document.baseURI);
  const listeners = new AbortController();
  // The transports that have opened at least once.
  const proven = new Set();
  let [state, id] = [{}, after || null];
  // The timer of the next attempt, and what cancels the current one.
  let [timer, cancel] = [0, () => {}];
  // Index of the current transport, and when the last fallback chose it.
  let [current, fellBackAt] = [0, 0];
  // How often the current transport failed to open, and the attempts since a stable connection.
  let [failures, attempts] = [0, 0];
  // Whether the server has refused the last token.
  let tokenRefused = false;
  // How many connections in a row fell silent before anything was heard after their opening. That
  // may be a long message on a slow link, as it is not seen before it is complete.
  let silences = 0;

  function setState(next) {
    state = next;
    callSafely(onState, next);
  }

  async function connect() {
    clearTimeout(timer);
    if (current && performance.now() - fellBackAt > FALLBACK_PERIOD * 1000) current = 0;
    const transport = transports[current];
    let [resumeId, openedAt, ended, stop] = [id, 0, false, () => {}];
    let openTimer, token, silenceLimit, watch, trial;

    function onOpen({ id: first, recovered }) {
      if (ended) return;
      clearTimeout(openTimer);
      watch?.heard();
      proven.add(transport);
      failures = 0;
      tokenRefused = false;
      openedAt ||= performance.now();
      id = first;
      // Without an id to resume after, nothing can be lost.
      setState({ state: "open", transport, id, recovered: resumeId === null || recovered });
      resumeId = id;
      if (current && !trial && !ended) tryBetter((trial = new AbortController()).signal);
    }
    function onMessage({ id: next, data, base64 }) {
      if (ended) return;
      onHeard();
      id = next;
      callSafely(onPublication, { id, data: base64 === undefined ? data : decodeBase64(base64) });
    }
    function onHeartbeat(seconds) {
      if (ended) return;
      if (watch) return onHeard();
      silenceLimit = within(seconds, 1, MAX_HEARTBEAT);
      silenceLimit += Math.min(silenceLimit, HEARTBEAT_GRACE);
      startWatch();
    }
    function onHeard() {
      if (watch && silences && openedAt) {
        silences = 0;
        startWatch();
      } else watch?.heard();
    }
    function startWatch() {
      watch?.stop();
      watch = watchSilence(silenceLimit * 2 ** silences, () => {
        silences = Math.min(silences + 1, MAX_DOUBLINGS);
        onEnd();
      });
    }
    function end() {
      ended = true;
      clearTimeout(openTimer);
      watch?.stop();
      trial?.abort();
      stop();
    }
    function onEnd(error) {
      if (ended) return;
      end();
      if (openedAt && performance.now() - openedAt > STABLE_AFTER * 1000) attempts = 0;
      if (error?.permanent) onRefused(error);
      else if (openedAt || error) scheduleReconnect(error?.retryAfter);
      else probe(transport, token);
    }

    cancel = end;
    setState({ state: "connecting", transport });
    if (ended) return; // onState has called close().
    try {
      if (tokenSource) token = await requestToken(tokenSource);
    } catch (error) {
      report(error); // The page's own error; reconnect as after any failure.
      return onEnd({});
    }
    if (ended) return;
    openTimer = setTimeout(() => onEnd(), OPEN_TIMEOUT * 1000);
    try {
      const request = { url: topic, after: id, token, tokenSource, heartbeat };
      stop = TRANSPORTS[transport](request, { onOpen, onMessage, onHeartbeat, onEnd });
    } catch {
      onEnd(); // The browser forbids it, such as ws: in a page loaded over https:.
    }
  }

  /** Find out why a transport did not open, by a plain HTTP request: browsers hide the reason. */
  async function probe(transport, token) {
    const request = new AbortController();
    cancel = () => request.abort();
    try {
      await check(topic, id, request.signal, token);
      failures += 1;
      // A proven transport gets a second try: the server may just have been restarted.
      if (current + 1 < transports.length && failures > (proven.has(transport) ? 1 : 0)) {
        [current, fellBackAt, failures] = [current + 1, performance.now(), 0];
        connect();
      } else scheduleReconnect();
    } catch (error) {
      if (request.signal.aborted) return;
      if (error.permanent) onRefused(error);
      else scheduleReconnect(error.retryAfter);
    }
  }

  /** Try the transports before the current one at intervals, until one opens; change to that one. */
  async function tryBetter(signal) {
    for (let delay = FALLBACK_PERIOD; ; delay = Math.min(2 * delay, MAX_TRY_DELAY)) {
      await pause(delay * (0.75 + Math.random() / 2), signal);
      for (let index = 0; index < current && !signal.aborted; index += 1) {
        if (await opens(transports[index], signal) && !signal.aborted) {
          [current, fellBackAt] = [index, performance.now()];
          reconnectNow();
        }
      }
      if (signal.aborted) return;
    }
  }

  /** Whether a transport opens now; the connection in use stays as it is. */
  async function opens(name, signal) {
    let token;
    try {
      if (tokenSource) token = await requestToken(tokenSource);
    } catch {
      return false;
    }
    if (signal.aborted) return false;
    return new Promise((resolve) => {
      let stop = () => {};
      function end(opened) {
        clearTimeout(timer);
        stop();
        resolve(opened);
      }
      const timer = setTimeout(end, OPEN_TIMEOUT * 1000, false);
      signal.addEventListener("abort", () => end(false));
      const [onOpen, onEnd] = [() => end(true), () => end(false)];
      try {
        const request = { url: topic, after: null, token, tokenSource, heartbeat: 0 };
        stop = TRANSPORTS[name](request, { onOpen, onMessage() {}, onHeartbeat() {}, onEnd });
      } catch {
        end(false);
      }
    });
  }

  /** Close, unless a fresh token may help: the last one may have expired while the page slept. */
  function onRefused({ code, message }) {
    if (code !== 401 || !tokenSource || tokenRefused) return finish(code, message);
    tokenRefused = true;
    scheduleReconnect();
  }

  function scheduleReconnect(retryAfter = 0) {
    // Full jitter: clients that lost their server together must not return together.
    const backoff = Math.random() * Math.min(BACKOFF_MAX, BACKOFF_MIN * 2 ** attempts++);
    const seconds = Math.max(retryAfter, backoff);
    timer = setTimeout(connect, seconds * 1000);
    setState({ state: "waiting", seconds });
  }

  function finish(code, reason) {
    if (state.state === "closed") return;
    clearTimeout(timer);
    listeners.abort();
    cancel();
    setState({ state: "closed", code, reason });
  }

  /** Replace the connection at once: the network is back, and an old connection may be dead. */
  function reconnectNow() {
    if (state.state === "closed") return; // Before Safari 15 the listeners are not removed.
    attempts = 0;
    cancel();
    connect();
  }

  const { signal } = listeners;
  addEventListener("online", reconnectNow, { signal });
  addEventListener("pageshow", ({ persisted }) => persisted && reconnectNow(), { signal });
  document.addEventListener("visibilitychange", () => {
    if (!document.hidden && state.state === "waiting") reconnectNow();
  }, { signal });
  if (transports.length) connect();
  else finish(0, `this browser has none of ${wanted.join(", ")}`);
  return {
    get id() { return id; },
    get state() { return state; },
    close: () => finish(1000, "closed by the page"),
  };
}

/** Call `onSilence` once nothing was heard for some seconds; whoever hears something calls `heard`. */
function watchSilence(seconds, onSilence) {
  let heardAt = performance.now();
  let timer = setTimeout(look, seconds * 1000, false);
  function look(isLast) {
    const left = seconds - (performance.now() - heardAt) / 1000;
    if (left > 0) timer = setTimeout(look, left * 1000, false);
    else if (isLast) onSilence();
    else timer = setTimeout(look, LAST_LOOK * 1000, true);
  }
  return { heard: () => { heardAt = performance.now(); }, stop: () => clearTimeout(timer) };
}

/** Wait for some seconds, or until a signal is aborted. */
function pause(seconds, signal) {
  return new Promise((resolve) => {
    const timer = setTimeout(resolve, seconds * 1000);
    signal.addEventListener("abort", () => {
      clearTimeout(timer);
      resolve();
    });
  });
}

/** Report an error of the page, as if it were uncaught; Safari before 15.4 can only log it. */
const report = globalThis.reportError ?? ((error) => console.error(error));

/** Call a callback of the page; an error in it is reported, and does not end the subscription. */
function callSafely(callback, argument) {
  try {
    callback(argument);
  } catch (error) {
    report(error);
  }
}

function decodeBase64(text) {
  return Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
}
