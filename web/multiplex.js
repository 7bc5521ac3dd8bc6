/**
 * Many topics on one connection.
 *
 * @module multiplex
 */

import { callSafely, keepOpen } from "./connection.js";
import { TRANSPORTS, checkTopics, nameOf } from "./multiplex_transports.js";
import { Listener, Topic } from "./topic.js";
import { NO_REASON } from "./transports.js";

// Topics that come and go within this time, in milliseconds, are asked for at once: over SSE and
// long polling each change replaces the connection.
const SETTLE_TIME = 10;
// If the server cannot subscribe to a topic now, it is asked again after this time, and then after
// twice the last one, up to MAX_RETRY; in seconds.
const [MIN_RETRY, MAX_RETRY] = [1, 20];

/**
 * Make a connection for many topics, which is open while there are any.
 *
 * Reconnects, resumes and changes the transport as `subscribe()` does, for all topics together. So a
 * page needs one connection, however many of its parts subscribe, and parts that subscribe to the
 * same topic share it.
 *
 * @param {string | URL} [url] The address for many topics: `/topics`, on the server of the page, if
 *   it is not given.
 * @param {object} [options] `transports`, `token`, `heartbeat` and `onState` as for `subscribe()`,
 *   with one more state: `{ state: "idle" }` without any topic. The state `open` has no id: each
 *   topic has its own. And:
 * @param {"json"} [options.format] Has what was published as JSON arrive as a value, not as text.
 * @returns {{readonly state: object, subscribe: (topic: string, onPublication: (publication: object)
 *   => void, options?: object) => object, close: () => void}} The state; a function that subscribes;
 *   and one that closes the connection and ends all subscriptions.
 *
 *   `subscribe(topic, onPublication, options)` may be called at any time, and returns `{ topic, id,
 *   state, presence(), close() }`. A publication is `{ topic, id, data }`, with the name of its
 *   `event`, if it has one, and `conflated`, the number of publications that it replaces in a topic
 *   of which only the latest value counts. A topic that is subscribed already is shared: its next
 *   publications go to both. The options:
 *
 *   - `after`: the id of the last publication that the page has. In a topic that is open already it
 *     is compared only: `recovered` is false if it is not the current one.
 *   - `onState(state)`: called at each change of `{ state: "subscribing" }`; `{ state: "open", id,
 *     recovered }`, whose `id` is null if long polling does not tell it; and `{ state: "closed",
 *     code, reason }`, which is final: closed by the page (1000), refused or ended by the server, or
 *     the connection is closed.
 *   - `onPresence(change)`: asks the server who is present. Called first with `{ type: "present",
 *     count, subjects }`, then with `{ type: "joined", subject, connection, info }` and `{ type:
 *     "left", … }`. If there are so many subjects that the server only counts them, `subjects` is
 *     null, and `present` comes again whenever the number has changed. `presence()` returns `{
 *     count, subjects }` at any time, or null before the server has said it.
 * @throws {TypeError} If `transports` is empty or has an unknown name.
 */
export function connect(url = "/topics", options = {}) {
  const { format = null, onState = () => {} } = options;
  const address = new URL(url, document.baseURI);
  // Names this connection, so that it stays present when it reconnects.
  const client = Array.from(crypto.getRandomValues(new Uint8Array(8)), toHex).join("");
  // The topics by name. One without a listener stays until the change is sent.
  const topics = new Map();
  // Where the covered topics resume, and topics that will be covered by the next cursor.
  let [cursor, uncovered] = [null, new Set()];
  // The connection of the moment: what it has asked for, and `update()` if it can ask for others.
  let current = null;
  let settling = 0;

  function open(transport, request, handlers) {
    const details = { ...request, url: address, format, client, cursor };
    if (request.isTrial) {
      const [first] = topics.keys();
      const some = new Map(first === undefined ? [] : [[first, new Topic(first, null)]]);
      return TRANSPORTS[transport]({ ...details, topics: some, cursor: null }, handlers).stop;
    }
    uncovered = new Set();
    for (const topic of topics.values()) topic.requested(topic.positionAt(cursor));
    const { stop, update } = TRANSPORTS[transport]({ ...details, topics }, handlers);
    current = { update, asked: describe() };
    return () => {
      current = null;
      stop();
    };
  }

  function onMessage(message) {
    if ("cursor" in message) return moveCursor(message.cursor);
    const name = nameOf(message);
    const topic = topics.get(name);
    if (!topic) return;
    if ("subscribed" in message) {
      topic.failures = 0;
      topic.opened(message.id, message.recovered);
      setUncovered(topic);
    } else if ("joined" in message || "left" in message || "presence" in message) {
      topic.updatePresence(message);
    } else if ("error" in message || "unsubscribed" in message) onEnded(topic, message);
    else if ("id" in message) {
      topic.published(message);
      if (topic.isCovered) setUncovered(topic);
    }
  }

  function setUncovered(topic) {
    topic.isCovered = false;
    uncovered.add(topic);
  }

  function moveCursor(next) {
    cursor = next;
    for (const topic of uncovered) topic.isCovered = true;
    uncovered.clear();
  }

  /** The server does not subscribe to a topic, or has ended it. */
  function onEnded(topic, { error, reason = error, code = 1008 }) {
    if (code >= 500 && code < 600) {
      topic.lost();
      const seconds = Math.min(MIN_RETRY * 2 ** topic.failures++, MAX_RETRY);
      setTimeout(settle, seconds * 1000);
    } else {
      topics.delete(topic.name);
      topic.closed(code, reason || NO_REASON);
      settle();
    }
  }

  /** If the server refuses the connection because of one topic, go on without it. */
  function onRefused({ code, message, details: { topic: name } }) {
    const topic = topics.get(name);
    if (!topic) return false;
    topics.delete(name);
    topic.closed(code, message);
    if (topics.size) connection.replace();
    else connection.rest();
    return true;
  }

  /** What the connection asks the server for; as long as this is the same it need not be replaced. */
  function describe() {
    const wanted = [...topics.values()];
    return JSON.stringify([wanted.map(({ name }) => name).sort(), wanted.some((topic) => topic.wantsPresence)]);
  }

  function settle() {
    if (connection.state.state !== "closed") settling ||= setTimeout(apply, SETTLE_TIME);
  }

  /** Ask for the topics that are wanted now. */
  function apply() {
    clearTimeout(settling);
    settling = 0;
    for (const topic of topics.values()) {
      if (topic.isWanted) topic.welcome();
      else topics.delete(topic.name);
    }
    if (!topics.size) connection.rest();
    else if (connection.state.state === "idle") connection.reconnect();
    else if (current?.update) current.update();
    else if (current && current.asked !== describe()) connection.replace();
  }

  const connection = keepOpen(options, {
    open,
    check(signal, token) {
      return checkTopics({ url: address, topics, cursor, format, client }, signal, token);
    },
    onOpen: () => ({}),
    onMessage,
    onRefused,
    onState(state) {
      callSafely(onState, state);
      if (state.state === "waiting") for (const topic of [...topics.values()]) topic.lost();
      if (state.state !== "closed") return;
      clearTimeout(settling);
      for (const topic of [...topics.values()]) topic.closed(state.code, state.reason);
      topics.clear();
    },
  });

  function subscribe(name, onPublication, options = {}) {
    const listener = new Listener(onPublication, options);
    const { state } = connection;
    if (state.state === "closed") listener.setState(state);
    const topic = topics.get(name) ?? new Topic(name, listener.after);
    if (state.state !== "closed") {
      topics.set(name, topic);
      topic.add(listener);
      settle();
    }
    function close() {
      if (listener.state.state === "closed") return;
      topic.remove(listener);
      listener.setState({ state: "closed", code: 1000, reason: "closed by the page" });
      settle();
    }
    return {
      topic: name,
      get id() { return topic.id; },
      get state() { return listener.state; },
      presence: () => topic.present,
      close,
    };
  }
  return {
    get state() { return connection.state; },
    subscribe,
    close: () => connection.close(1000, "closed by the page"),
  };
}

function toHex(byte) {
  return byte.toString(16).padStart(2, "0");
}
