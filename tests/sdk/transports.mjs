// What npm's centrifuge, and plain clients, do over HTTP: node transports.mjs SCENARIO TRANSPORT
// json|protobuf, and the rest in the environment. A scenario that fails ends the process with an
// error.
import assert from "node:assert/strict";
import { createRequire } from "node:module";
import { connect as connectSocket, createServer } from "node:net";
import { join } from "node:path";

import { next, publish } from "./shared.mjs";

const [, , scenario, transport, format] = process.argv;
const { URL_HTTP, URL_EMULATION } = process.env;
const tokens = JSON.parse(process.env.TOKENS);
const isProtobuf = format === "protobuf";
// The packages are in the environment of Python.
const require = createRequire(join(process.env.MODULES, "transports.js"));
const WebSocket = require("ws");
const { EventSource } = require("eventsource");
const { Centrifuge } = require(isProtobuf ? "centrifuge/build/protobuf" : "centrifuge");

const encode = (value) => (isProtobuf ? new TextEncoder().encode(JSON.stringify(value)) : value);
const decode = (data) => (isProtobuf ? JSON.parse(new TextDecoder().decode(data)) : data);

// Between the clients and the daemon, so that connections can be cut as networks do that.
const sockets = new Set();
const proxy = createServer((client) => {
  const { hostname, port } = new URL(URL_HTTP);
  const server = connectSocket(Number(port), hostname);
  for (const [one, other] of [[client, server], [server, client]]) {
    sockets.add(one);
    one.on("error", () => {});
    one.on("close", () => {
      sockets.delete(one);
      other.destroy();
    });
    one.pipe(other);
  }
});
await new Promise((resolve) => proxy.listen(0, "127.0.0.1", resolve));
const base = `http://127.0.0.1:${proxy.address().port}`;

// Cuts all connections, in the middle of whatever they carry.
function cut() {
  for (const socket of sockets) socket.resetAndDestroy();
}

function connect(options = {}) {
  const client = new Centrifuge([{ transport, endpoint: `${base}/connection/${transport}` }], {
    emulationEndpoint: URL_EMULATION || `${base}/emulation`,
    eventsource: EventSource,
    minReconnectDelay: 50,
    ...options,
  });
  client.connect();
  return client;
}

// The pushes of a unidirectional client, each as a value; a Close frame is one, too.
const plain = {
  uni_sse(url, asked) {
    const source = new EventSource(`${url}?cf_connect=${encodeURIComponent(JSON.stringify(asked))}`);
    return { source, pushes: queue((put) => (source.onmessage = ({ data }) => put(data))) };
  },
  uni_http_stream(url, asked) {
    const pushes = queue(async (put) => {
      const answer = await fetch(url, { method: "POST", body: JSON.stringify(asked) });
      assert.equal(answer.status, 200);
      const decoder = new TextDecoder();
      let rest = "";
      try {
        for await (const piece of answer.body) {
          const lines = (rest + decoder.decode(piece, { stream: true })).split("\n");
          rest = lines.pop();
          lines.forEach(put);
        }
      } catch {
        put('"cut"');
      }
    });
    return { pushes };
  },
  uni_websocket(url, asked) {
    const socket = new WebSocket(url.replace("http", "ws"));
    socket.on("open", () => socket.send(JSON.stringify(asked)));
    socket.on("error", () => {});
    return {
      pushes: queue((put) => {
        socket.on("message", (data) => put(data.toString()));
        socket.on("close", (code) => put(JSON.stringify({ disconnect: { code } })));
      }),
    };
  },
};

// Returns what awaits the next value of those that a function puts, as JSON.
function queue(start) {
  const values = [];
  let wake = () => {};
  start((text) => {
    values.push(JSON.parse(text));
    wake();
  });
  return async () => {
    while (!values.length) await new Promise((resolve) => (wake = resolve));
    return values.shift();
  };
}

const scenarios = {
  async conversation() {
    const [one, two] = [connect(), connect()];
    const [connected] = await next(one, "connected");
    assert.equal(connected.transport, transport);
    await two.ready();
    const subscription = one.newSubscription("chat:1");
    const joins = next(subscription, "join", 2);
    subscription.subscribe();
    await subscription.ready();
    const other = two.newSubscription("chat:1");
    other.subscribe();
    await other.ready();
    const both = (await joins).map(({ info }) => info.client);
    const presence = await other.presence();
    assert.deepEqual(new Set(Object.keys(presence.clients)), new Set(both));
    assert.equal((await other.presenceStats()).numClients, 2);

    const publications = next(subscription, "publication", 2);
    await other.publish(encode({ text: "é\n" }));
    await publish("chat:1", [1, 2.5, null]);
    const got = (await publications).map(({ data }) => decode(data));
    assert.deepEqual(got, [{ text: "é\n" }, [1, 2.5, null]]);
    const history = await subscription.history({ limit: 1, reverse: true });
    assert.deepEqual(decode(history.publications[0].data), [1, 2.5, null]);

    const large = next(subscription, "publication");
    await other.publish(encode({ text: '"€"'.repeat(60_000) }));
    assert.equal(decode((await large)[0].data).text.length, 180_000);

    const leave = next(subscription, "leave");
    other.unsubscribe();
    assert.ok(both.includes((await leave)[0].info.client));
    const { data } = await one.rpc("double", encode({ number: 21 }));
    assert.deepEqual(decode(data), { doubled: 42 });
    await assert.rejects(one.rpc("method", encode({})), { code: 404 });
    one.disconnect();
    assert.equal(one.state, "disconnected");
  },

  async recovery() {
    const client = connect();
    const subscription = client.newSubscription("news");
    const seen = [];
    subscription.on("publication", ({ data }) => seen.push(decode(data)));
    subscription.subscribe();
    await subscription.ready();
    await publish("news", 0);
    for (let round = 0; round < 3; round += 1) {
      const again = next(subscription, "subscribed");
      cut();
      await publish("news", 2 * round + 1);
      await publish("news", 2 * round + 2);
      const [{ wasRecovering, recovered }] = await again;
      assert.ok(wasRecovering && recovered);
    }
    await publish("news", 7);
    while (seen.length < 8) await next(subscription, "publication");
    assert.deepEqual(seen, [0, 1, 2, 3, 4, 5, 6, 7]);
  },

  async tokens() {
    const given = [tokens.expired, tokens.short, tokens.long];
    const client = connect({ getToken: async () => given.shift() });
    const errors = next(client, "error");
    await client.ready();
    assert.equal((await errors)[0].error.code, 109);
    // The token lasts for two seconds: the SDK fetches a fresh one, and nothing else happens.
    let disturbed = false;
    client.on("connecting", () => (disturbed = true));
    while (given.length) await new Promise((resolve) => setTimeout(resolve, 50));
    await client.ready();
    await client.rpc("double", encode({ number: 1 }));
    assert.equal(disturbed, false);
    const refused = connect({ token: "nonsense" });
    assert.equal((await next(refused, "disconnected"))[0].code, 3500);
  },

  async server() {
    const client = connect({ token: tokens.server });
    const subscribed = await next(client, "subscribed", 2);
    assert.deepEqual(subscribed.map(({ channel }) => channel).sort(), ["#ann", "news/ann"]);
    const first = next(client, "publication");
    await publish("users/ann", 1);
    assert.deepEqual((await first).map(({ channel, data }) => [channel, decode(data)]), [["#ann", 1]]);
    const rest = next(client, "publication", 2);
    cut();
    await publish("users/ann", 2);
    await publish("news/ann", 3);
    assert.deepEqual((await rest).map(({ data }) => decode(data)).sort(), [2, 3]);
  },

  async batch() {
    const client = connect();
    await client.ready();
    const subscriptions = [...Array(1000).keys()].map((number) => client.newSubscription(`many/${number}`));
    client.startBatching();
    for (const subscription of subscriptions) subscription.subscribe();
    client.stopBatching();
    await Promise.all(subscriptions.map((subscription) => subscription.ready()));
    const last = next(subscriptions[999], "publication");
    await publish("many/999", 7);
    assert.equal(decode((await last)[0].data), 7);
  },

  // Commands are sent to another node than that of the stream.
  async nodes() {
    const client = connect();
    const subscription = client.newSubscription("news");
    subscription.subscribe();
    await subscription.ready();
    const publications = next(subscription, "publication", 2);
    await subscription.publish(encode(1));
    await publish("news", 2);
    assert.deepEqual((await publications).map(({ data }) => decode(data)), [1, 2]);
    const again = next(subscription, "subscribed");
    cut();
    assert.ok((await again)[0].recovered);
    await subscription.presence();
  },

  async unidirectional() {
    const url = `${base}/connection/${transport}`;
    const { pushes, source } = plain[transport](url, { token: tokens.server });
    const { connect: connected } = await pushes();
    assert.deepEqual(Object.keys(connected.subs).sort(), ["#ann", "news/ann"]);
    assert.equal(connected.ping, 25);
    const pub = async (from) => {
      for (;;) {
        const push = await from();
        if (push.pub) return push;
      }
    };
    await publish("news/ann", { text: "é\n" });
    const first = await pub(pushes);
    assert.deepEqual([first.channel, first.pub.data], ["news/ann", { text: "é\n" }]);
    cut();
    source?.close();
    await publish("news/ann", 2);
    const { epoch } = connected.subs["news/ann"];
    const subs = { "news/ann": { recover: true, epoch, offset: first.pub.offset } };
    const again = plain[transport](url, { token: tokens.server, subs });
    assert.ok((await again.pushes()).connect.subs["news/ann"].recovered);
    assert.equal((await pub(again.pushes)).pub.data, 2);
    const refused = plain[transport](url, { token: "nonsense" });
    assert.equal((await refused.pushes()).disconnect.code, 3500);
  },
};

await scenarios[scenario]();
process.exit(0);
