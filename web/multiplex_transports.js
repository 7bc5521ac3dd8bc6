/**
 * The transports of many topics: WebSocket, Server-Sent Events and long polling.
 *
 * @module multiplex_transports
 */

import { check, poll, withQuery } from "./requests.js";
import { openSocket, pollForever } from "./transports.js";

// A plain request has its token in a header, and needs no heartbeat.
const IN_HEADER = { token: null, heartbeat: 0 };

// The events of a stream that hold the same JSON as a message of a WebSocket.
const EVENTS = ["message", "subscribed", "unsubscribed", "presence", "joined", "left"];

/**
 * The transports by name. Each is a function that opens a connection: `(request, handlers)` returns
 * `{ stop, update }`; `update` asks for the topics that are wanted now, and is missing if that
 * takes another connection. The request is `{ url, topics, cursor, format, client, token,
 * tokenSource, heartbeat }`. The handlers are those in `transports.js`; `onMessage` gets messages as
 * a WebSocket has them, and `{ cursor }` where the topics can be resumed after all that came before.
 */
export const TRANSPORTS = {
  websocket(request, { onOpen, onMessage, onHeartbeat, onEnd }) {
    const { url, topics, cursor, format, client, token, heartbeat } = request;
    const hear = once(onOpen);
    // The topics asked for, each with presence or without it.
    const asked = new Map();
    // How many answers to `unsubscribe` are to come for a topic: until the last one, what comes is
    // of a subscription that the page has ended.
    const ending = new Map();

    function update() {
      if (socket.readyState !== WebSocket.OPEN) return;
      for (const [name, hasPresence] of asked) {
        const topic = topics.get(name);
        if (topic && (hasPresence || !topic.wantsPresence)) continue;
        send({ unsubscribe: name });
        asked.delete(name);
        ending.set(name, (ending.get(name) ?? 0) + 1);
      }
      for (const topic of topics.values()) {
        if (asked.has(topic.name)) continue;
        const after = topic.positionAt(cursor);
        topic.requested(after);
        asked.set(topic.name, topic.wantsPresence);
        const presence = topic.wantsPresence || null;
        send(withoutNull({ subscribe: topic.name, after, format, presence }));
      }
    }
    function onReady() {
      if (!heartbeat) hear();
      update();
    }
    function onFrame(message) {
      hear();
      const name = nameOf(message);
      if (!ending.has(name)) {
        if ("error" in message || "unsubscribed" in message) asked.delete(name);
        onMessage(message);
      } else if (isAnswerToUnsubscribe(message)) {
        if (ending.get(name) > 1) ending.set(name, ending.get(name) - 1);
        else ending.delete(name);
      }
    }
    function onBeat(seconds) {
      hear();
      onHeartbeat(seconds);
    }
    const address = withQuery(url, { token, heartbeat: heartbeat || null, client });
    const handlers = { onReady, onFrame, onHeartbeat: onBeat, onEnd };
    const { socket, send } = openSocket(address, request, handlers);
    return { stop: () => socket.close(), update };
  },

  sse(request, { onOpen, onMessage, onHeartbeat, onEnd }) {
    // An EventSource hears only events whose names it knows.
    const source = new EventSource(topicsURL({ ...request, envelope: 1 }));
    const hear = once(onOpen);
    for (const type of EVENTS) {
      source.addEventListener(type, ({ lastEventId, data }) => {
        hear();
        onMessage(JSON.parse(data));
        if (lastEventId) onMessage({ cursor: lastEventId });
      });
    }
    source.addEventListener("heartbeat", ({ data }) => onHeartbeat(data));
    // Left alone it would reconnect, but at its own pace and with the old query.
    source.addEventListener("error", () => onEnd());
    return { stop: () => source.close() };
  },

  longpoll(request, { onOpen, onMessage, onEnd }) {
    let [{ cursor }, version] = [request, 1];
    // Those that come later are not asked for by this connection.
    const topics = new Map(request.topics);
    const hear = once(onOpen);
    const ask = (wait, signal, token) => {
      const url = topicsURL({ ...request, ...IN_HEADER, topics, cursor, version, wait });
      return poll(url, wait, signal, token);
    };
    const stop = pollForever(ask, request, onEnd, (answer, isFirst) => {
      const { id, recovered, publications, presence } = answer;
      hear();
      for (const [name, isRecovered] of Object.entries(recovered)) {
        // No answer says at which id a topic begins, but its id says where all of them continue.
        const message = { subscribed: name, id: null, recovered: isRecovered };
        if (isFirst || !isRecovered) onMessage(message);
      }
      publications.forEach(onMessage);
      for (const [name, present] of Object.entries(presence?.topics ?? {})) {
        onMessage({ presence: name, ...present });
      }
      // The next poll is answered when there is another list.
      version = presence?.version ?? version;
      onMessage({ cursor: (cursor = id) });
    });
    return { stop };
  },
};

/**
 * Ask whether the server accepts the subscriptions; what was published meanwhile is not read.
 *
 * @param {object} request As the transports have it.
 * @param {AbortSignal} signal Aborts the request.
 * @param {string} [token]
 * @throws {RequestError} If the server answers with an error status.
 */
export function checkTopics(request, signal, token) {
  return check(topicsURL({ ...request, ...IN_HEADER, wait: 0 }), signal, token);
}

/**
 * Return the topic that a message is about.
 *
 * @param {object} message
 * @returns {string | undefined}
 */
export function nameOf({ topic, subscribed, unsubscribed, presence, joined, left }) {
  return topic ?? subscribed ?? unsubscribed ?? presence ?? joined ?? left;
}

function isAnswerToUnsubscribe(message) {
  if ("error" in message) return message.where === "unsubscribe";
  return "unsubscribed" in message && !("reason" in message);
}

function topicsURL({ url, topics, cursor, version = 1, wait = null, ...request }) {
  const { format, client, token, heartbeat, envelope = null } = request;
  const wanted = [...topics.values()];
  const presence = wanted.some(({ wantsPresence }) => wantsPresence) ? version : null;
  const areCovered = cursor !== null && wanted.every(({ isCovered }) => isCovered);
  const after = areCovered ? cursor : null;
  const beat = heartbeat || null;
  const others = { after, format, envelope, client, presence, token, heartbeat: beat, wait };
  const result = withQuery(url, others);
  for (const topic of wanted) {
    const position = areCovered ? null : topic.positionAt(cursor);
    const value = encodeURIComponent(position === null ? topic.name : `${topic.name}@${position}`);
    // Not by searchParams, which would write three characters for each of these in a long list.
    result.search += `&topic=${value.replace(/%(2F|3A|40)/g, decodeURIComponent)}`;
  }
  return result;
}

function withoutNull(message) {
  return Object.fromEntries(Object.entries(message).filter(([, value]) => value !== null));
}

function once(callback) {
  let isDue = true;
  return () => {
    if (isDue) callback({});
    isDue = false;
  };
}
