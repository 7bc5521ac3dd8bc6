// What npm's centrifuge does with a daemon: node scenarios.mjs SCENARIO json|protobuf, and the rest
// in the environment. A scenario that fails ends the process with an error.
import assert from "node:assert/strict";
import { createRequire } from "node:module";
import { join } from "node:path";
import { createInterface } from "node:readline";

import { next, publish } from "./shared.mjs";

const [, , scenario, format] = process.argv;
const { URL_WEBSOCKET, TOKENS } = process.env;
const tokens = JSON.parse(TOKENS);
const isProtobuf = format === "protobuf";
// The packages are in the environment of Python.
const require = createRequire(join(process.env.MODULES, "scenarios.js"));
const WebSocket = require("ws");
const { Centrifuge } = require(isProtobuf ? "centrifuge/build/protobuf" : "centrifuge");

const encode = (value) => (isProtobuf ? new TextEncoder().encode(JSON.stringify(value)) : value);
const decode = (data) => (isProtobuf ? JSON.parse(new TextDecoder().decode(data)) : data);

function connect(options = {}) {
  const client = new Centrifuge(URL_WEBSOCKET, { websocket: WebSocket, minReconnectDelay: 50, ...options });
  client.connect();
  return client;
}

// Cuts the connection without a Close frame.
const cut = (client) => client._transport._transport.terminate();

const scenarios = {
  async conversation() {
    const [one, two] = [connect(), connect()];
    await Promise.all([one.ready(), two.ready()]);
    const subscription = one.newSubscription("chat:1");
    const joins = next(subscription, "join", 2);
    subscription.subscribe();
    await subscription.ready();
    const other = two.newSubscription("chat:1");
    other.subscribe();
    await other.ready();
    const both = (await joins).map(({ info }) => info.client);
    assert.equal(new Set(both).size, 2);
    const presence = await other.presence();
    assert.deepEqual(new Set(Object.keys(presence.clients)), new Set(both));
    assert.equal((await other.presenceStats()).numClients, 2);

    const publications = next(subscription, "publication", 2);
    await other.publish(encode({ text: "é" }));
    await publish("chat:1", [1, 2.5, null]);
    assert.deepEqual((await publications).map(({ data }) => decode(data)), [{ text: "é" }, [1, 2.5, null]]);
    const history = await subscription.history({ limit: 1, reverse: true });
    assert.deepEqual(decode(history.publications[0].data), [1, 2.5, null]);

    const leave = next(subscription, "leave");
    other.unsubscribe();
    assert.ok(both.includes((await leave)[0].info.client));
    const { data } = await one.rpc("double", encode({ number: 21 }));
    assert.deepEqual(decode(data), { doubled: 42 });
    await assert.rejects(one.rpc("method", encode({})), { code: 404 });
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
      cut(client);
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
    let subscribed = 0;
    const client = connect({ getToken: async () => given.shift() });
    const errors = next(client, "error");
    await client.ready();
    assert.equal((await errors)[0].error.code, 109);
    const subscription = client.newSubscription("private/ann", {
      getToken: async () => (subscribed++ ? tokens.channelLong : tokens.channelShort),
    });
    subscription.subscribe();
    await subscription.ready();
    // Both tokens last for two seconds: the SDK fetches fresh ones, and nothing else happens.
    let disturbed = false;
    client.on("connecting", () => (disturbed = true));
    subscription.on("subscribing", () => (disturbed = true));
    while (given.length || subscribed < 2) await new Promise((resolve) => setTimeout(resolve, 50));
    await client.ready();
    await subscription.history({ limit: 1 });
    assert.equal(disturbed, false);

    const denied = client.newSubscription("private/bob");
    const ended = next(denied, "unsubscribed");
    denied.subscribe();
    assert.equal((await ended)[0].code, 103);
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
    cut(client);
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
    await publish("many/999", "x");
    const { data } = (await last)[0];
    assert.equal(isProtobuf ? new TextDecoder().decode(data) : data, "x");
  },

  // The daemon is restarted between the two lines.
  async restart() {
    const client = connect();
    const subscription = client.newSubscription("kept");
    subscription.subscribe();
    await subscription.ready();
    const again = next(subscription, "subscribed");
    const missed = next(subscription, "publication");
    console.log("ready");
    await new Promise((resolve) => createInterface({ input: process.stdin }).once("line", resolve));
    const [{ wasRecovering, recovered }] = await again;
    assert.ok(wasRecovering && recovered);
    assert.deepEqual(decode((await missed)[0].data), { after: "restart" });
  },
};

await scenarios[scenario]();
process.exit(0);
