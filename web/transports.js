/**
 * How each transport of pushd is opened, for pushd.js.
 *
 * @module transports
 */

// In seconds: how long an answer may take, beyond what it was asked to wait; and how long the server
// keeps a long poll without news.
const [PATIENCE, POLL] = [10, 25];
// A fresh token is sent when so much of the old one's time is over, and not sooner than in a second.
const PART = 0.8;
// With what the server closes a WebSocket whose token has run out, beside 1008.
const EXPIRED = "the token has run out";

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
 * The transports, in the order of merit. Each gets the topic's address, the last id, whom to tell,
 * a token (or none) and the page's function for a fresh one, and gives a function that stops it.
 */
export const OPENERS = {
  websocket(url, after, { opened, took, ended }, token, fresh) {
    const socket = new WebSocket(webSocketURL(address(url, after, { token })), "pushd.v1");
    let timer;
    async function renew() {
      try {
        const message = JSON.stringify({ token: await fresh() });
        if (socket.readyState === WebSocket.OPEN) socket.send(message);
      } catch {
        // The old one lasts a while yet; then we begin anew.
      }
    }
    // Who answers without the subprotocol is not the one we look for.
    socket.onopen = () => socket.protocol || ended();
    socket.onmessage = ({ data }) => {
      const said = JSON.parse(data);
      if ("subscribed" in said) opened(said);
      else if ("id" in said) took(said);
      else if ("expires_in" in said && fresh) {
        clearTimeout(timer);
        // What is longer than some days would be taken for nothing at all.
        timer = setTimeout(renew, Math.min(Math.max(said.expires_in * PART, 1), 1e6) * 1000);
      }
    };
    socket.onclose = ({ code, reason }) => {
      clearTimeout(timer);
      const final = code === 1008 && !(fresh && reason === EXPIRED);
      ended(final && new Trouble(code, reason, true));
    };
    return () => socket.close();
  },

  sse(url, after, { opened, took, ended }, token) {
    const source = new EventSource(address(url, after, { token }));
    const on = (name, heard) => source.addEventListener(name, heard);
    on("subscribed", ({ data }) => opened(JSON.parse(data)));
    on("message", ({ lastEventId, data }) => took({ id: lastEventId, data }));
    on("json", ({ lastEventId, data }) => took({ id: lastEventId, data: JSON.parse(data) }));
    on("base64", ({ lastEventId, data }) => took({ id: lastEventId, base64: data }));
    // It would come back by itself, but at its own pace and with the query of the first time.
    on("error", () => ended());
    return () => source.close();
  },

  longpoll(url, after, { opened, took, ended }, token, fresh) {
    const asking = new AbortController();
    (async () => {
      // The first answer comes at once and says where we stand.
      for (let seconds = 0; ; seconds = POLL) {
        const asked = performance.now();
        if (seconds && fresh) token = await tokenFrom(fresh);
        const { id, recovered, publications } = await ask(url, after, seconds, asking.signal, token);
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

/** A token from the page's function; where none comes in time, it is as good as one that fails. */
export async function tokenFrom(fresh) {
  // First the page's, which may throw: nobody would hear of our patience then, when it ends.
  const token = fresh();
  const late = new Error(`no token came within ${PATIENCE} s`);
  const patience = new Promise((_, reject) => setTimeout(reject, PATIENCE * 1000, late));
  return Promise.race([token, patience]);
}

/** Why a connection ended; `final` where a new try would end no better. */
class Trouble extends Error {
  constructor(code, message, final = false, seconds = 0) {
    super(message);
    Object.assign(this, { code, final, seconds });
  }
}

/** Ask for what there is, or comes within some seconds. */
export async function ask(url, after, seconds, signal, token) {
  const answer = await fetch(address(url, after, { wait: seconds }), {
    cache: "no-store",
    headers: { Accept: "application/json", ...(token && { Authorization: `Bearer ${token}` }) },
    signal: AbortSignal.any([signal, AbortSignal.timeout((seconds + PATIENCE) * 1000)]),
  });
  if (answer.ok) return answer.json();
  const { status } = answer;
  const final = status >= 400 && status < 500 && status !== 408 && status !== 429;
  const reason = (await answer.text()).slice(0, 200).trim();
  throw new Trouble(status, reason, final, Number(answer.headers.get("Retry-After")) || 0);
}

function address(url, after, parameters) {
  const asked = new URL(url);
  for (const [name, value] of Object.entries({ after, ...parameters })) {
    if (value !== null && value !== undefined) asked.searchParams.set(name, value);
  }
  return asked.href;
}
