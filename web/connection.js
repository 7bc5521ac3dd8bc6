/**
 * A connection that is kept open: reconnects, falls back to other transports, notices silence.
 *
 * @module connection
 */

import { requestToken, within } from "./requests.js";

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

const TRANSPORTS = ["websocket", "sse", "longpoll"];

/**
 * Keep a connection open from the first `reconnect()` until `close()` is called.
 *
 * @param {object} options Those of `subscribe()` and `connect()` that concern the connection:
 *   `transports`, `token` and `heartbeat`.
 * @param {object} user What the connection is for:
 * @param {(transport: string, request: object, handlers: object) => (() => void)} user.open Opens a
 *   connection over a transport, and returns a function that closes it. The request is `{ token,
 *   tokenSource, heartbeat, isTrial }`; the heartbeats' interval is in seconds, 0 for none; a trial
 *   finds out whether the transport works, and nothing that it receives counts. The handlers are
 *   `onOpen(details)`, `onMessage(message)`, `onHeartbeat(seconds)` and `onEnd(error)`, whose
 *   argument is a `RequestError`, or missing if the reason is unknown.
 * @param {(signal: AbortSignal, token: ?string) => Promise<void>} user.check Finds out by a plain
 *   request whether the server refuses the connection; rejected with a `RequestError` if so.
 * @param {(details: object) => object} user.onOpen Returns what the state `open` says beside the
 *   transport.
 * @param {(message: object) => void} user.onMessage
 * @param {(error: RequestError) => boolean} [user.onRefused] Called if the server refuses the
 *   connection; returns true if it has asked for something else instead.
 * @param {(state: object) => void} user.onState Called at each change of the state.
 * @returns {{readonly state: object, reconnect: () => void, replace: () => void, rest: () => void,
 *   close: (code: number, reason: string) => void}}
 * @throws {TypeError} If `transports` is empty or has an unknown name.
 */
export function keepOpen(options, user) {
  const { transports: wanted = TRANSPORTS, token: tokenSource } = options;
  const { heartbeat: interval = HEARTBEAT } = options;
  if (!wanted.length || !wanted.every((name) => TRANSPORTS.includes(name))) {
    const rule = `transports must list one or more of ${TRANSPORTS.join(", ")}`;
    throw new TypeError(`${rule}; got [${wanted.join(", ")}]`);
  }
  const transports = wanted.filter(isSupported);
  const heartbeat = interval && within(Math.round(interval), 1, MAX_HEARTBEAT);
  const listeners = new AbortController();
  // The transports that have opened at least once.
  const proven = new Set();
  let state = { state: "idle" };
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
    user.onState(next);
  }

  async function connect() {
    clearTimeout(timer);
    if (current && performance.now() - fellBackAt > FALLBACK_PERIOD * 1000) current = 0;
    const transport = transports[current];
    let [openedAt, ended, stop] = [0, false, () => {}];
    let openTimer, token, silenceLimit, watch, trial;

    function onOpen(details) {
      if (ended) return;
      clearTimeout(openTimer);
      watch?.heard();
      proven.add(transport);
      failures = 0;
      tokenRefused = false;
      openedAt ||= performance.now();
      setState({ state: "open", transport, ...user.onOpen(details) });
      if (current && !trial && !ended) tryBetter((trial = new AbortController()).signal);
    }
    function onMessage(message) {
      if (ended) return;
      onHeard();
      user.onMessage(message);
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
      const request = { token, tokenSource, heartbeat, isTrial: false };
      stop = user.open(transport, request, { onOpen, onMessage, onHeartbeat, onEnd });
    } catch {
      onEnd(); // The browser forbids it, such as ws: in a page loaded over https:.
    }
  }

  /** Find out why a transport did not open, by a plain HTTP request: browsers hide the reason. */
  async function probe(transport, token) {
    const request = new AbortController();
    cancel = () => request.abort();
    try {
      await user.check(request.signal, token);
      if (request.signal.aborted) return;
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
          reconnect();
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
      const ignore = () => {};
      try {
        const request = { token, tokenSource, heartbeat: 0, isTrial: true };
        const handlers = { onOpen, onMessage: ignore, onHeartbeat: ignore, onEnd };
        stop = user.open(name, request, handlers);
      } catch {
        end(false);
      }
    });
  }

  /** Close, unless a fresh token may help: the last one may have expired while the page slept. */
  function onRefused(error) {
    if (error.code === 401 && tokenSource && !tokenRefused) {
      tokenRefused = true;
      scheduleReconnect();
    } else if (!user.onRefused?.(error)) close(error.code, error.message);
  }

  function scheduleReconnect(retryAfter = 0) {
    // Full jitter: clients that lost their server together must not return together.
    const backoff = Math.random() * Math.min(BACKOFF_MAX, BACKOFF_MIN * 2 ** attempts++);
    const seconds = Math.max(retryAfter, backoff);
    timer = setTimeout(connect, seconds * 1000);
    setState({ state: "waiting", seconds });
  }

  function close(code, reason) {
    if (state.state === "closed") return;
    clearTimeout(timer);
    listeners.abort();
    cancel();
    setState({ state: "closed", code, reason });
  }

  /** Replace the connection at once: the network is back, and an old connection may be dead. */
  function reconnect() {
    if (state.state === "closed") return; // Before Safari 15 the listeners are not removed.
    if (!transports.length) return close(0, `this browser has none of ${wanted.join(", ")}`);
    attempts = 0;
    cancel();
    connect();
  }

  /** Replace the connection by one that asks for something else; after a failure, not at once. */
  function replace() {
    if (state.state === "idle") reconnect();
    else if (state.state === "connecting" || state.state === "open") {
      cancel();
      connect();
    }
  }

  /** Have no connection until the next `reconnect()` or `replace()`. */
  function rest() {
    if (state.state === "idle" || state.state === "closed") return;
    clearTimeout(timer);
    cancel();
    setState({ state: "idle" });
  }

  const { signal } = listeners;
  const wake = () => state.state !== "idle" && reconnect();
  addEventListener("online", wake, { signal });
  addEventListener("pageshow", ({ persisted }) => persisted && wake(), { signal });
  document.addEventListener("visibilitychange", () => {
    if (!document.hidden && state.state === "waiting") reconnect();
  }, { signal });
  return { get state() { return state; }, reconnect, replace, rest, close };
}

/** Whether the browser has what a transport needs. Without it, the transport is left out. */
function isSupported(name) {
  if (name === "websocket") return typeof WebSocket === "function";
  return name !== "sse" || typeof EventSource === "function";
}

/** Call `onSilence` once nothing was heard for some seconds; call `heard` at each sign of life. */
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

/**
 * Call a callback of the page; an error in it is reported, and does not end the subscription.
 *
 * @param {(argument: object) => void} callback
 * @param {object} argument
 */
export function callSafely(callback, argument) {
  try {
    callback(argument);
  } catch (error) {
    report(error);
  }
}

/**
 * Return a publication as the page gets it.
 *
 * @param {object} message A publication as the server sends it.
 * @returns {object} With `data` in place of `base64`: a `Uint8Array` if bytes were published.
 */
export function publicationOf({ base64, ...publication }) {
  if (base64 === undefined) return publication;
  const data = Uint8Array.from(atob(base64), (character) => character.charCodeAt(0));
  return { ...publication, data };
}
