/**
 * What a page needs to listen to pushd: `import { subscribe } from "/pushd.js"`.
 *
 * @module pushd
 */

import { OPENERS, ask, tokenFrom } from "./transports.js";

export { webSocketURL } from "./transports.js";

// All in seconds. The first wait before a new try is this long at most; each further one may be
// twice as long, up to the second. After a connection that lasted, the first is the first again.
const [SHORTEST, LONGEST, GOOD] = [0.5, 20, 5];
// How long a transport may take until it has begun; and how long a lesser one does before a better
// one gets a new chance, at a reconnect.
const [PATIENCE, CONTENT] = [10, 60];

/**
 * Listen to a topic until `close()`: over what gets through, across every break, without a gap.
 *
 * @param {string | URL} url The topic's address, such as `/topics/news`.
 * @param {(publication: {id: string, data: string | Uint8Array}) => void} onPublication Called for
 *   each publication, in order, once: a `Uint8Array` for one that was published as bytes.
 * @param {object} [options]
 * @param {Array<"websocket" | "sse" | "longpoll">} [options.transports] What to try, in order.
 * @param {() => string | Promise<string>} [options.token] Asked for a token that is good: for each
 *   connection, and before the one in use runs out. Where it fails, or takes more than 10 s, it
 *   is asked again later.
 * @param {?string} [options.after] The last id that the page has; nothing since is left out.
 * @param {(state: State) => void} [options.onState] Called at each change of the state, which is
 *   `{ state: "connecting", transport }`,
 *   `{ state: "open", transport, id, recovered }`: what comes follows this id; `recovered: false`
 *   says that publications before it are lost, so that the page should load its data anew,
 *   `{ state: "waiting", seconds }`: until the next try, or until the browser is online again, or
 *   `{ state: "closed", code, reason }`: for good, by the page (1000), by the server (1008), or
 *   because it refuses (the status of its answer: 400 and up).
 * @returns {{readonly id: ?string, readonly state: State, close: () => void}} The last id; the
 *   state; and the end.
 */
export function subscribe(url, onPublication, options = {}) {
  const { transports = Object.keys(OPENERS), token, after = null, onState = () => {} } = options;
  const unknown = transports.filter((name) => !Object.hasOwn(OPENERS, name));
  if (unknown.length || !transports.length) throw new TypeError(`no transport: ${unknown}`);
  const topic = new URL(url, document.baseURI);
  const listening = new AbortController();
  const been = new Set();
  let [state, timer, cut, id] = [{}, 0, () => {}, after || null];
  // Which transport it is, since when, how often it has not begun; and how often we were cut off.
  let [place, fell, failures, breaks] = [0, 0, 0, 0];
  // Whether the last token was refused.
  let refused = false;

  function tell(next) {
    state = next;
    call(onState, next);
  }

  async function connect() {
    clearTimeout(timer);
    if (place && performance.now() - fell > CONTENT * 1000) place = 0;
    const transport = transports[place];
    let [asked, began, over, stop] = [id, 0, false, () => {}];
    let patience, pass;

    function opened({ id: first, recovered }) {
      if (over) return;
      clearTimeout(patience);
      been.add(transport);
      failures = 0;
      refused = false;
      began ||= performance.now();
      id = first;
      tell({ state: "open", transport, id, recovered: asked === null || recovered });
      asked = id;
    }
    function took({ id: next, data, base64 }) {
      if (over) return;
      id = next;
      const bytes = () => Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0));
      call(onPublication, { id, data: base64 === undefined ? data : bytes() });
    }
    function leave() {
      over = true;
      clearTimeout(patience);
      stop();
    }
    function ended(error) {
      if (over) return;
      leave();
      if (began && performance.now() - began > GOOD * 1000) breaks = 0;
      if (error?.final) refuse(error);
      else if (began || error) wait(error?.seconds);
      else findOut(transport, pass);
    }

    cut = leave;
    tell({ state: "connecting", transport });
    if (over) return; // The page has closed meanwhile.
    try {
      if (token) pass = await tokenFrom(token);
    } catch (error) {
      reportError(error); // The page's; we come back, as after any other trouble.
      return ended({});
    }
    if (over) return;
    patience = setTimeout(() => ended(), PATIENCE * 1000);
    try {
      stop = OPENERS[transport](topic, id, { opened, took, ended }, pass, token);
    } catch {
      ended(); // The browser itself forbids it: ws: in a page that came by https:.
    }
  }

  /** A transport never began, and browsers hide why: ask for the same over plain HTTP. */
  async function findOut(transport, pass) {
    const asking = new AbortController();
    cut = () => asking.abort();
    try {
      await ask(topic, null, 0, asking.signal, pass);
      failures += 1;
      // One that got through before may have had bad luck, such as a server that just started.
      if (place + 1 < transports.length && failures > (been.has(transport) ? 1 : 0)) {
        [place, fell, failures] = [place + 1, performance.now(), 0];
        connect();
      } else wait();
    } catch (error) {
      if (asking.signal.aborted) return;
      if (error.final) refuse(error);
      else wait(error.seconds);
    }
  }

  /** The server says no, for good; but a token may have run out while the page slept: one more. */
  function refuse({ code, message }) {
    if (code !== 401 || !token || refused) return finish(code, message);
    refused = true;
    wait();
  }

  function wait(least = 0) {
    // Full jitter: who lost their server together do not come back together.
    const seconds = Math.max(least, Math.random() * Math.min(LONGEST, SHORTEST * 2 ** breaks++));
    timer = setTimeout(connect, seconds * 1000);
    tell({ state: "waiting", seconds });
  }

  function finish(code, reason) {
    if (state.state === "closed") return;
    clearTimeout(timer);
    listening.abort();
    cut();
    tell({ state: "closed", code, reason });
  }

  /** Connect at once: what kept us from it may be over, and an old connection may be dead. */
  function renew() {
    breaks = 0;
    cut();
    connect();
  }

  const { signal } = listening;
  addEventListener("online", renew, { signal });
  addEventListener("pageshow", ({ persisted }) => persisted && renew(), { signal });
  const seen = () => !document.hidden && state.state === "waiting" && renew();
  document.addEventListener("visibilitychange", seen, { signal });
  connect();
  return {
    get id() { return id; },
    get state() { return state; },
    close: () => finish(1000, "the page left"),
  };
}

/** Call the page's own function; what it throws is the page's, and stops nothing here. */
function call(heard, given) {
  try {
    heard(given);
  } catch (error) {
    reportError(error);
  }
}
