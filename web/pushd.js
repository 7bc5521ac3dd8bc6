/**
 * What a page needs to listen to pushd: `import { subscribe } from "/pushd.js"`.
 *
 * @module pushd
 */

// All in seconds. The first wait before a new try is this long at most; each further one may be
// twice as long, up to the second. After a connection that lasted, the first is the first again.
const [SHORTEST, LONGEST, GOOD] = [0.5, 20, 5];
// How long a transport may take until it has begun; how long a lesser one does before a better one
// gets a new chance, at a reconnect; and how long the server keeps a long poll without news.
const [PATIENCE, CONTENT, POLL] = [10, 60, 25];

/**
 * Build the address of a WebSocket from a path, on the server that the page came from.
 *
 * @param {string | URL} path What to open, such as `/test/`.
 * @param {string | URL} base The page's own address, which decides the host and, by its protocol,
 *   between `ws:` and `wss:`.
 * @returns {string} An absolute `ws:` or `wss:` address.
 */
export function webSocketURL(path, base = document.baseURI) {
  const url = new URL(path, base);
  url.protocol = url.protocol === "https:" ? "wss:" : "ws:";
  // The WebSocket constructor of older browsers refuses an address with a fragment.
  url.hash = "";
  return url.href;
}

/**
 * Listen to a topic until `close()`: over what gets through, across every break, without a gap.
 *
 * @param {string | URL} url The topic's address, such as `/topics/news`.
 * @param {(publication: {id: string, data: string | Uint8Array}) => void} onPublication Called for
 *   each publication, in order, once: a `Uint8Array` for one that was published as bytes.
 * @param {object} [options]
 * @param {Array<"websocket" | "sse" | "longpoll">} [options.transports] What to try, in order.
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
  const { transports = Object.keys(OPENERS), after = null, onState = () => {} } = options;
  const unknown = transports.filter((name) => !Object.hasOwn(OPENERS, name));
  if (unknown.length || !transports.length) throw new TypeError(`no transport: ${unknown}`);
  const topic = new URL(url, document.baseURI);
  const listening = new AbortController();
  const been = new Set();
  let [state, timer, cut, id] = [{}, 0, () => {}, after || null];
  // Which transport it is, since when, how often it has not begun; and how often we were cut off.
  let [place, fell, failures, breaks] = [0, 0, 0, 0];

  function tell(next) {
    state = next;
    call(onState, next);
  }

  function connect() {
    clearTimeout(timer);
    if (place && performance.now() - fell > CONTENT * 1000) place = 0;
    const transport = transports[place];
    let [asked, began, over, stop] = [id, 0, false, () => {}];
    const patience = setTimeout(() => ended(), PATIENCE * 1000);

    function opened({ id: first, recovered }) {
      if (over) return;
      clearTimeout(patience);
      been.add(transport);
      failures = 0;
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
      if (error?.final) finish(error.code, error.message);
      else if (began || error) wait(error?.seconds);
      else findOut(transport);
    }

    cut = leave;
    tell({ state: "connecting", transport });
    if (over) return; // The page has closed meanwhile.
    try {
      stop = OPENERS[transport](topic, id, { opened, took, ended });
    } catch {
      ended(); // The browser itself forbids it: ws: in a page that came by https:.
    }
  }

  /** A transport never began, and browsers hide why: ask for the same over plain HTTP. */
  async function findOut(transport) {
    const asking = new AbortController();
    cut = () => asking.abort();
    try {
      await ask(topic, null, 0, asking.signal);
      failures += 1;
      // One that got through before may have had bad luck, such as a server that just started.
      if (place + 1 < transports.length && failures > (been.has(transport) ? 1 : 0)) {
        [place, fell, failures] = [place + 1, performance.now(), 0];
        connect();
      } else wait();
    } catch (error) {
      if (asking.signal.aborted) return;
      if (error.final) finish(error.code, error.message);
      else wait(error.seconds);
    }
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

/** How each transport is opened, in the order of merit; each gives a function that stops it. */
const OPENERS = {
  websocket(url, after, { opened, took, ended }) {
    const socket = new WebSocket(webSocketURL(address(url, after)), "pushd.v1");
    // Who answers without the subprotocol is not the one we look for.
    socket.onopen = () => socket.protocol || ended();
    socket.onmessage = ({ data }) => {
      const said = JSON.parse(data);
      ("subscribed" in said ? opened : took)(said);
    };
    socket.onclose = ({ code, reason }) => ended(code === 1008 && new Trouble(code, reason, true));
    return () => socket.close();
  },

  sse(url, after, { opened, took, ended }) {
    const source = new EventSource(address(url, after));
    const on = (name, heard) => source.addEventListener(name, heard);
    on("subscribed", ({ data }) => opened(JSON.parse(data)));
    on("message", ({ lastEventId, data }) => took({ id: lastEventId, data }));
    on("json", ({ lastEventId, data }) => took({ id: lastEventId, data: JSON.parse(data) }));
    on("base64", ({ lastEventId, data }) => took({ id: lastEventId, base64: data }));
    // It would come back by itself, but at its own pace and with the query of the first time.
    on("error", () => ended());
    return () => source.close();
  },

  longpoll(url, after, { opened, took, ended }) {
    const asking = new AbortController();
    (async () => {
      // The first answer comes at once and says where we stand.
      for (let seconds = 0; ; seconds = POLL) {
        const asked = performance.now();
        const { id, recovered, publications } = await ask(url, after, seconds, asking.signal);
        const [epoch, offset] = id.split(":");
        const first = `${epoch}:${offset - publications.length}`;
        if (!seconds || !recovered) opened({ id: first, recovered });
        publications.forEach(took);
        after = id;
        // Something on the way may not let us wait; then we do not ask without end.
        const early = !publications.length && performance.now() - asked < 1000;
        if (seconds && early) await new Promise((resolve) => setTimeout(resolve, 1000));
      }
    })().catch((error) => ended(error));
    return () => asking.abort();
  },
};

/** Why a connection ended; `final` where a new try would end no better. */
class Trouble extends Error {
  constructor(code, message, final = false, seconds = 0) {
    super(message);
    Object.assign(this, { code, final, seconds });
  }
}

/** Ask for what there is, or comes within some seconds. */
async function ask(url, after, seconds, signal) {
  const answer = await fetch(address(url, after, seconds), {
    cache: "no-store",
    headers: { Accept: "application/json" },
    signal: AbortSignal.any([signal, AbortSignal.timeout((seconds + PATIENCE) * 1000)]),
  });
  if (answer.ok) return answer.json();
  const { status } = answer;
  const final = status >= 400 && status < 500 && status !== 408 && status !== 429;
  const reason = (await answer.text()).slice(0, 200).trim();
  throw new Trouble(status, reason, final, Number(answer.headers.get("Retry-After")) || 0);
}

function address(url, after, seconds) {
  const asked = new URL(url);
  if (after !== null) asked.searchParams.set("after", after);
  if (seconds !== undefined) asked.searchParams.set("wait", seconds);
  return asked.href;
}

/** Call the page's own function; what it throws is the page's, and stops nothing here. */
function call(heard, given) {
  try {
    heard(given);
  } catch (error) {
    reportError(error);
  }
}
