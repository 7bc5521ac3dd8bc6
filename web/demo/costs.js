/**
 * Measures and charts what the same messages cost with polling and with each transport.
 *
 * @module costs
 */

import { subscribe } from "../pushd.js";

const SVG = "http://www.w3.org/2000/svg";

/** How many messages are published. */
const MESSAGES = 10;

/** How often plain polling asks, in milliseconds. */
const POLL_INTERVAL = 1000;

/** How long to wait for the last message, in milliseconds. */
const LAST_MESSAGE_TIMEOUT = 5000;

/** The transports, and whether the server pushes over them. */
const TRANSPORTS = [
  { transport: "poll", name: "Polling every second", short: "Polling", pushed: false },
  { transport: "longpoll", name: "Long polling", short: "Long poll", pushed: true },
  { transport: "sse", name: "Server-Sent Events", short: "Events", pushed: true },
  { transport: "websocket", name: "WebSocket", short: "WebSocket", pushed: true },
];

/** Resource Timing has no entries for WebSockets. */
const browserCount = ({ transport, browser }, field) => {
  return transport === "websocket" ? "–" : format(browser[field]);
};

/** The rows of the table: a label, and a function that formats the value; or a heading. */
const ROWS = [
  ["Messages received", ({ received }) => format(received)],
  ["Mean latency", ({ received, delay }) => (received ? `${format(delay / received)} ms` : "–")],
  ["Counted by the daemon"],
  ["Requests", ({ daemon }) => format(daemon.requests)],
  ["Request bytes", ({ daemon }) => format(daemon.received)],
  ["Response bytes", ({ daemon }) => format(daemon.sent)],
  ["Requests per message", (subscriber) => format(perMessage(subscriber).requests, 1)],
  ["Bytes per message", (subscriber) => format(perMessage(subscriber).bytes)],
  ["Counted by the browser"],
  ["Requests", (subscriber) => browserCount(subscriber, "requests")],
  ["Response bytes", (subscriber) => browserCount(subscriber, "bytes")],
];

const startButton = document.querySelector("#start");
const progress = document.querySelector("#progress");
const failure = document.querySelector("#failure");

/** Stops the measurement that is running; null if none is. */
let running = null;

/** Publish the messages, receive them over each transport, and show the cost after each one. */
async function measure() {
  const { signal } = running = new AbortController();
  const topic = `play/costs-${Math.random().toString(36).slice(2, 10)}`;
  const sentAt = [];
  const subscribers = TRANSPORTS.map((transport) => {
    return { ...transport, received: 0, delay: 0, browser: { requests: 0, bytes: 0 } };
  });
  const observer = observe(topic, subscribers);
  const interval = Number(document.querySelector("#interval").value) * 1000;
  try {
    progress.textContent = "Connecting …";
    await Promise.all(subscribers.map((one) => receive(one, topic, sentAt, signal)));
    for (let number = 0; number < MESSAGES; number += 1) {
      progress.textContent = `${number + 1} of ${MESSAGES} messages`;
      sentAt.push(performance.now());
      await publish(topic, `${number} The train to Leipzig is ${number} minutes late`, signal);
      await updateCosts(topic, subscribers, signal);
      // At random intervals, so as not to run in step with polling.
      await sleep(interval * (0.5 + Math.random()), signal);
    }
    const deadline = performance.now() + LAST_MESSAGE_TIMEOUT;
    const isComplete = () => subscribers.every(({ received }) => received >= MESSAGES);
    while (!isComplete() && performance.now() < deadline) await sleep(100, signal);
    await updateCosts(topic, subscribers, signal);
    progress.textContent = "Done";
  } catch (error) {
    progress.textContent = "Stopped";
    if (!signal.aborted) showFailure(`The measurement failed: ${error.message}.`);
  } finally {
    running.abort();
    running = null;
    // Resource Timing reports a request after it has ended.
    await sleep(500);
    observer.disconnect();
    draw(subscribers);
    startButton.textContent = "Measure again";
  }
}

/** Subscribe over one transport until the signal; resolves once the subscription has begun. */
function receive(subscriber, topic, sentAt, signal) {
  const url = urlOf(subscriber.transport, topic);
  const onPublication = ({ data }) => {
    subscriber.received += 1;
    subscriber.delay += performance.now() - sentAt[Number.parseInt(data, 10)];
  };
  if (subscriber.transport === "poll") return poll(subscriber, url, onPublication, signal);
  return new Promise((resolve, reject) => {
    const { close } = subscribe(url, onPublication, {
      transports: [subscriber.transport],
      onState: ({ state, reason }) => {
        if (state === "open") resolve();
        if (state === "closed") reject(new Error(reason));
      },
    });
    signal.addEventListener("abort", close);
  });
}

/** Ask for news at regular intervals, as a page without push does. */
async function poll(subscriber, url, onPublication, signal) {
  let after = "";
  const ask = async () => {
    const response = await fetch(`${url}?wait=0&after=${after}`, { signal });
    const { id, publications } = await readJson(response);
    publications.forEach(onPublication);
    after = id;
  };
  const repeat = async () => {
    // Stops after the last message, so that the daemon and the browser count the same requests.
    while (subscriber.received < MESSAGES) {
      await sleep(POLL_INTERVAL, signal);
      await ask();
    }
  };
  await ask();
  // If the daemon is gone, the next updateCosts() fails as well, and says so.
  repeat().catch(() => {});
}

/** Count the requests and bytes that the browser knows of (Resource Timing). */
function observe(topic, subscribers) {
  const observer = new PerformanceObserver((list) => {
    for (const { name, transferSize } of list.getEntries()) {
      const subscriber = subscribers.find(({ transport }) => {
        return name.startsWith(urlOf(transport, topic));
      });
      if (!subscriber) continue;
      subscriber.browser.requests += 1;
      subscriber.browser.bytes += transferSize;
    }
  });
  observer.observe({ type: "resource" });
  return observer;
}

/** Fetch the daemon's counts, and show them. */
async function updateCosts(topic, subscribers, signal) {
  const query = new URLSearchParams({ topic });
  const response = await fetch(`/play/costs/?${query}`, { signal, cache: "no-store" });
  const { costs } = await readJson(response);
  for (const subscriber of subscribers) subscriber.daemon = costs[subscriber.transport];
  draw(subscribers);
}

async function publish(topic, body, signal) {
  const query = new URLSearchParams({ topic });
  await readJson(await fetch(`/play/publish/?${query}`, { method: "POST", body, signal }));
}

async function readJson(response) {
  const value = await response.json();
  if (!response.ok) throw new Error(value.error);
  return value;
}

function urlOf(transport, topic) {
  return new URL(`/play/topics/${transport}/${topic}`, location.href).href;
}

function sleep(milliseconds, signal) {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(resolve, milliseconds);
    signal?.addEventListener("abort", () => {
      clearTimeout(timer);
      reject(signal.reason);
    });
  });
}

function showFailure(text) {
  failure.textContent = text;
  failure.hidden = false;
}

function perMessage({ received, daemon }) {
  const messages = Math.max(1, received);
  const bytes = (daemon.received + daemon.sent) / messages;
  return { requests: daemon.requests / messages, bytes };
}

function format(number, digits = 0) {
  const options = { minimumFractionDigits: digits, maximumFractionDigits: digits };
  return number.toLocaleString("en", options);
}

function draw(subscribers) {
  if (!subscribers.every(({ daemon }) => daemon)) return;
  document.querySelector("#results").hidden = false;
  drawChart("bytes", subscribers, 0);
  drawChart("requests", subscribers, 1);
  document.querySelector("#columns").replaceChildren(
    createRow(
      createCell("td", ""),
      ...subscribers.map(({ short }) => createCell("th", short, { scope: "col" })),
    ),
  );
  document.querySelector("#numbers").replaceChildren(...ROWS.map(([label, value]) => {
    if (!value) {
      const span = { scope: "rowgroup", colspan: TRANSPORTS.length + 1 };
      return createRow(createCell("th", label, span));
    }
    const cells = subscribers.map((subscriber) => {
      return createCell("td", value(subscriber), { "data-transport": subscriber.transport });
    });
    return createRow(createCell("th", label, { scope: "row" }), ...cells);
  }));
}

/** Draw one bar for each transport: its `quantity` (`bytes` or `requests`) per message. */
function drawChart(quantity, subscribers, digits) {
  const chart = document.querySelector(`#${quantity}`);
  const values = subscribers.map((subscriber) => perMessage(subscriber)[quantity]);
  const max = Math.max(...values);
  const labels = subscribers.map(({ name }, index) => `${name} ${format(values[index], digits)}`);
  chart.setAttribute("aria-label", `${labels.join(", ")} ${quantity} per message`);
  chart.replaceChildren(...subscribers.flatMap(({ name, pushed }, index) => {
    const value = values[index];
    const top = index * 3;
    return [
      createShape("text", { x: "0", y: `${top + 1}em` }, name),
      createShape("text", { x: "100%", y: `${top + 1}em`, class: "value" }, format(value, digits)),
      createBar(top, 100, "track"),
      createBar(top, max && (100 * value) / max, pushed ? "bar pushed" : "bar"),
    ];
  }));
}

function createBar(top, percent, className) {
  const size = { width: `${percent}%`, height: "0.6em", rx: "0.3em" };
  return createShape("rect", { x: "0", y: `${top + 1.4}em`, ...size, class: className });
}

function createShape(name, attributes, text = "") {
  const element = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.textContent = text;
  return element;
}

function createCell(name, text, attributes = {}) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.textContent = text;
  return element;
}

function createRow(...cells) {
  const element = document.createElement("tr");
  element.append(...cells);
  return element;
}

document.querySelector("#measure").addEventListener("submit", (event) => {
  event.preventDefault();
  if (running) {
    running.abort();
    return;
  }
  failure.hidden = true;
  startButton.textContent = "Stop";
  measure();
});
