// Compiled by tests/browser/test_npm.py, in a project that has the package installed.

import * as client from "pushd-client";
import { connect, subscribe, webSocketURL } from "pushd-client";
// The scripts themselves, of which TypeScript reads the comments.
import * as scripts from "./scripts/pushd.js";

// The types say what the comments say: the same exports, and parameters that fit.
type Same<A, B> = [A] extends [B] ? ([B] extends [A] ? true : false) : false;
const sameExports: Same<keyof typeof client, keyof typeof scripts> = true;
const calls: [typeof client.subscribe<unknown>, typeof client.webSocketURL] = [
  scripts.subscribe,
  scripts.webSocketURL,
];
const callsBack: [typeof scripts.subscribe, typeof scripts.webSocketURL] = [
  client.subscribe,
  client.webSocketURL,
];
type Parameter<Call extends (...args: never[]) => unknown, Index extends number> = NonNullable<
  Parameters<Call>[Index]
>;
const sameOptions: Same<
  keyof Parameter<typeof client.subscribe, 2>,
  keyof Parameter<typeof scripts.subscribe, 2>
> = true;
const sameHandle: Same<
  keyof client.Subscription,
  keyof ReturnType<typeof scripts.subscribe>
> = true;
const sameConnection: Same<
  keyof client.Connection,
  keyof ReturnType<typeof scripts.connect>
> = true;
const samePublication: Same<
  keyof client.Publication,
  keyof Parameters<Parameter<typeof scripts.subscribe, 1>>[0]
> = true;

// Every option can be given.
interface Order {
  id: number;
  status: string;
}
const one = subscribe<Order>(
  new URL("https://push.example.com/topics/orders/66"),
  ({ id, data, event, conflated }) => [id, data.status, event?.length, conflated?.toFixed()],
  {
    transports: ["websocket", "sse", "longpoll"],
    token: async () => "token",
    after: null,
    format: "json",
    heartbeat: 0,
    onState(state) {
      if (state.state === "open" && !state.recovered) console.log(state.id, state.transport);
      else if (state.state === "closed") console.log(state.code, state.reason);
      else if (state.state === "waiting") console.log(state.seconds.toFixed());
    },
  },
);
const after: string | null = one.id;
one.close();

const many = connect(undefined, {
  transports: ["longpoll"],
  token: () => "token",
  format: "json",
  heartbeat: 5,
  onState: (state) => state.state === "idle" || many.close(),
});
const topic = many.subscribe("orders/66", ({ topic, data }) => [topic.length, data === after], {
  after: "1:2",
  onState: (state) => state.state === "open" && state.recovered,
  onPresence(change) {
    if (change.type === "present") console.log(change.count, change.subjects?.[0]?.subject);
    else console.log(change.type, change.subject, change.connection, change.info);
  },
});
const count: number | undefined = topic.presence()?.count;
const url: string = webSocketURL("/test/", document.baseURI);

// Mistakes are found.
// @ts-expect-error: there is no such transport.
subscribe("/topics/a", () => {}, { transports: ["carrier pigeon"] });
// @ts-expect-error: there is no such option.
subscribe("/topics/a", () => {}, { retries: 3 });
// @ts-expect-error: data is unknown until the page says what it is.
subscribe("/topics/a", ({ data }) => data.status);
// @ts-expect-error: the state "connecting" has no id.
subscribe("/topics/a", () => {}, { onState: (state) => state.state === "connecting" && state.id });
// @ts-expect-error: presence is of a topic, not of the connection.
connect("/topics", { onPresence: () => {} });
// @ts-expect-error: the id is read-only.
one.id = "1:2";

export { calls, callsBack, count, sameConnection, sameExports, sameHandle, sameOptions, samePublication, url };
