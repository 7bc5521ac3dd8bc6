/** Types of the client for pushd topics; pushd.js has the same in its comments. */

/** How the server is reached: all three at the same URL. */
export type Transport = "websocket" | "sse" | "longpoll";

/** What was published. */
export interface Publication<Data = unknown> {
  /** The id to resume after. */
  readonly id: string;
  /** Text, a `Uint8Array` if bytes were published, or any value with `format: "json"`. */
  readonly data: Data;
  /** The name of its event, if it has one. */
  readonly event?: string;
  /** How many publications it replaces, in a topic of which only the latest value counts. */
  readonly conflated?: number;
}

/** What was published to one of many topics. */
export interface TopicPublication<Data = unknown> extends Publication<Data> {
  readonly topic: string;
}

/** A connection is being opened. */
export interface Connecting {
  readonly state: "connecting";
  readonly transport: Transport;
}

/** It will be opened again after this delay, or as soon as the browser is online or visible. */
export interface Waiting {
  readonly state: "waiting";
  readonly seconds: number;
}

/**
 * The end: closed by the page (1000), closed by the server (1008), refused by the server (an HTTP
 * status, 400 or higher), or impossible because the browser has none of the transports (0).
 */
export interface Closed {
  readonly state: "closed";
  readonly code: number;
  readonly reason: string;
}

/** The state of a subscription. */
export type State =
  | Connecting
  | {
      readonly state: "open";
      readonly transport: Transport;
      /** The id that the next publication follows. */
      readonly id: string;
      /** False if publications may be lost: the page must reload its data. */
      readonly recovered: boolean;
    }
  | Waiting
  | Closed;

/** The state of a connection for many topics; it is `idle` while there is no topic. */
export type ConnectionState =
  | { readonly state: "idle" }
  | Connecting
  | { readonly state: "open"; readonly transport: Transport }
  | Waiting
  | Closed;

/** The state of one of many topics. */
export type TopicState =
  | { readonly state: "subscribing" }
  | {
      readonly state: "open";
      /** The id that the next publication follows; null if long polling does not tell it. */
      readonly id: string | null;
      /** False if publications may be lost: the page must reload its data. */
      readonly recovered: boolean;
    }
  | Closed;

/** Options of a connection, whether for one topic or for many. */
interface Options {
  /** The transports to try, the preferred one first; by default all three. */
  transports?: readonly Transport[];
  /** Returns a valid token; called before each connection, and before the token expires. */
  token?: () => string | Promise<string>;
  /** Has what was published as JSON arrive as a value, not as text. */
  format?: "json";
  /** Seconds between the server's heartbeats, from 1 to 25; 25 by default, 0 for none. */
  heartbeat?: number;
}

export interface SubscribeOptions extends Options {
  /** The id of the last publication that the page has. */
  after?: string | null;
  /** Called at each change of the state. */
  onState?: (state: State) => void;
}

export interface ConnectOptions extends Options {
  /** Called at each change of the state. */
  onState?: (state: ConnectionState) => void;
}

export interface TopicOptions {
  /** The id of the last publication that the page has. */
  after?: string | null;
  /** Called at each change of the topic's state. */
  onState?: (state: TopicState) => void;
  /** Called with who is present, and then with who joins and leaves. */
  onPresence?: (change: PresenceChange) => void;
}

/** A subscriber who is present. */
export interface Person {
  /** The subject of the token; null without one. */
  readonly subject: string | null;
  readonly connection: string;
  readonly info: unknown;
}

export interface Presence {
  readonly count: number;
  /** Null if there are so many that the server only counts them. */
  readonly subjects: readonly Person[] | null;
}

export type PresenceChange =
  | ({ readonly type: "present" } & Presence)
  | ({ readonly type: "joined" | "left" } & Person);

/** A subscription to one topic. */
export interface Subscription {
  /** The id of the last publication; null before the first connection. */
  readonly id: string | null;
  readonly state: State;
  /** End the subscription. */
  close(): void;
}

/** A subscription to one of many topics. */
export interface TopicSubscription {
  readonly topic: string;
  /** The id of the last publication; null if it is not known. */
  readonly id: string | null;
  readonly state: TopicState;
  /** Return who is present; null before the server has said it. */
  presence(): Presence | null;
  /** End the subscription. */
  close(): void;
}

/** A connection for many topics. */
export interface Connection {
  readonly state: ConnectionState;
  /** Subscribe to a topic; `Data` is what the page expects to be published, and is not checked. */
  subscribe<Data = unknown>(
    topic: string,
    onPublication: (publication: TopicPublication<Data>) => void,
    options?: TopicOptions,
  ): TopicSubscription;
  /** Close the connection and end all subscriptions. */
  close(): void;
}

/**
 * Subscribe to a topic until `close()` is called; `Data` is what the page expects to be published,
 * and is not checked.
 *
 * @throws {TypeError} If `transports` is empty or has an unknown name.
 */
export function subscribe<Data = unknown>(
  url: string | URL,
  onPublication: (publication: Publication<Data>) => void,
  options?: SubscribeOptions,
): Subscription;

/**
 * Make a connection for many topics, which is open while there are any.
 *
 * @param url The address for many topics; `/topics` on the server of the page by default.
 * @throws {TypeError} If `transports` is empty or has an unknown name.
 */
export function connect(url?: string | URL, options?: ConnectOptions): Connection;

/** Build a WebSocket's address, `ws:` or `wss:`, from a path on the server of the page. */
export function webSocketURL(path: string | URL, base?: string | URL): string;

// Without this, what is not exported would be, too.
export {};
