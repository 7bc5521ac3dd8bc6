// Stands in for the server's /topics within a page: replaces WebSocket, EventSource and fetch, so
// that a test decides what the server says. `fake` holds its state, and what a test can do.
window.fake = {
  isUp: true,
  // The transports that fail: "websocket" and "sse".
  blocked: new Set(),
  // Topics that are refused, with the reason; and how often others are not available.
  refused: new Map(),
  busy: new Map(),
  // What the page has asked for: URLs, and messages over WebSocket.
  asked: [],

  publish(topic, message) {
    const list = listOf(topic);
    const publication = { topic, id: `E:${list.length + 1}`, ...message };
    list.push({ sequence: (sequence += 1), publication });
    for (const connection of [...open]) connection.deliver(topic, publication);
    return publication.id;
  },
  say(message) {
    if (message.presence) present.set(message.presence, message);
    for (const connection of [...open]) connection.say(message);
  },
  cut() {
    for (const connection of [...open]) connection.cut();
  },
};

let sequence = 0;
// The last list of who is present, by topic.
const present = new Map();
const lists = new Map();
const open = new Set();
const later = (callback) => Promise.resolve().then(callback);

function listOf(topic) {
  if (!lists.has(topic)) lists.set(topic, []);
  return lists.get(topic);
}

/** Where a subscription begins: the number of publications before it, and if that is complete. */
function locate(topic, after) {
  const list = listOf(topic);
  const [, offset] = /^E:(\d+)$/.exec(after) ?? [];
  const [, cursor] = /^G\.(\d+)$/.exec(after) ?? [];
  if (offset !== undefined) return { from: Number(offset), recovered: true };
  if (cursor === undefined) return { from: list.length, recovered: false };
  return { from: list.filter(({ sequence }) => sequence <= cursor).length, recovered: true };
}

function since(topic, from) {
  return listOf(topic).slice(from).map(({ publication }) => publication);
}

/** The topics of a request, each with what it resumes after. */
function topicsOf(url) {
  const query = new URL(url, document.baseURI).searchParams;
  return query.getAll("topic").map((topic) => {
    const [name, after = query.get("after")] = topic.split("@");
    return [name, after];
  });
}

window.WebSocket = class {
  static OPEN = 1;

  constructor(url) {
    fake.asked.push(url);
    Object.assign(this, { protocol: "pushd.v1", readyState: 0, topics: new Set() });
    later(() => {
      if (!fake.isUp || fake.blocked.has("websocket")) return this.cut();
      this.readyState = 1;
      open.add(this);
      this.onopen();
      const heartbeat = new URL(url).searchParams.get("heartbeat");
      if (heartbeat) this.say({ heartbeat: Number(heartbeat) });
    });
  }

  send(text) {
    const message = JSON.parse(text);
    fake.asked.push(message);
    later(() => (message.subscribe ? this.subscribe(message) : this.unsubscribe(message)));
  }

  subscribe({ subscribe: topic, after }) {
    const error = fake.refused.get(topic);
    if (error) return this.say({ error, topic, where: "topic", code: 403 });
    if (fake.busy.get(topic)) {
      fake.busy.set(topic, fake.busy.get(topic) - 1);
      return this.say({ error: "busy", topic, where: "topic", code: 503 });
    }
    const { from, recovered } = locate(topic, after);
    this.topics.add(topic);
    this.say({ subscribed: topic, id: `E:${from}`, recovered });
    for (const publication of since(topic, from)) this.say(publication);
  }

  unsubscribe({ unsubscribe: topic }) {
    this.topics.delete(topic);
    this.say({ unsubscribed: topic });
  }

  deliver(topic, publication) {
    if (this.topics.has(topic)) this.say(publication);
  }

  say(message) {
    later(() => this.readyState === 1 && this.onmessage({ data: JSON.stringify(message) }));
  }

  close() {
    this.cut();
  }

  cut() {
    if (this.readyState === 3) return;
    this.readyState = 3;
    open.delete(this);
    later(() => this.onclose({ code: 1006, reason: "" }));
  }
};

window.EventSource = class extends EventTarget {
  constructor(url) {
    super();
    fake.asked.push(String(url));
    this.topics = new Set();
    later(() => {
      const wanted = topicsOf(url);
      const isRefused = wanted.some(([topic]) => fake.refused.has(topic));
      if (!fake.isUp || fake.blocked.has("sse") || isRefused) return this.cut();
      open.add(this);
      for (const [topic, after] of wanted) {
        const { from, recovered } = locate(topic, after);
        // Without a cursor, until all topics have begun.
        this.emit("subscribed", { subscribed: topic, id: `E:${from}`, recovered }, "");
        for (const publication of since(topic, from)) this.emit("message", publication, "");
        this.topics.add(topic);
      }
    });
  }

  emit(type, data, lastEventId = `G.${sequence}`) {
    later(() => {
      const event = new MessageEvent(type, { data: JSON.stringify(data), lastEventId });
      if (!this.isClosed) this.dispatchEvent(event);
    });
  }

  deliver(topic, publication) {
    if (this.topics.has(topic)) this.emit("message", publication);
  }

  say(message) {
    this.emit(Object.keys(message)[0], message, "");
  }

  close() {
    this.isClosed = true;
    open.delete(this);
  }

  cut() {
    if (this.isClosed) return;
    this.close();
    later(() => this.dispatchEvent(new Event("error")));
  }
};

window.fetch = async (url, { signal }) => {
  fake.asked.push(String(url));
  await Promise.resolve();
  if (!fake.isUp) throw new TypeError("unreachable");
  const wanted = topicsOf(url);
  const [refused] = wanted.find(([topic]) => fake.refused.has(topic)) ?? [];
  if (refused !== undefined) {
    const body = { error: fake.refused.get(refused), where: "topic", topic: refused };
    return new Response(JSON.stringify(body), { status: 403 });
  }
  const places = wanted.map(([topic, after]) => [topic, locate(topic, after)]);
  const missing = () => places.flatMap(([topic, { from }]) => since(topic, from));
  const query = new URL(url).searchParams;
  if (!missing().length && query.get("wait") !== "0") {
    await waitForPublication(new Set(wanted.map(([topic]) => topic)), signal);
  }
  const recovered = Object.fromEntries(places.map(([topic, place]) => [topic, place.recovered]));
  const answer = { id: `G.${sequence}`, recovered, publications: missing() };
  const version = JSON.stringify([...present]).length.toString();
  const known = query.get("presence");
  if (known !== null && known !== version) {
    answer.presence = { version, topics: Object.fromEntries(present) };
  }
  return Response.json(answer);
};

function waitForPublication(topics, signal) {
  return new Promise((resolve, reject) => {
    const end = (error) => {
      open.delete(poll);
      if (error) reject(error);
      else resolve();
    };
    const poll = {
      deliver: (topic) => topics.has(topic) && end(),
      say: () => end(),
      cut: () => end(new TypeError("cut")),
    };
    open.add(poll);
    signal.addEventListener("abort", () => end(signal.reason));
    if (signal.aborted) end(signal.reason);
  });
}
