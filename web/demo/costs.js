/**
 * What it costs to hear the same messages in four ways: measured, and drawn.
 *
 * @module costs
 */

import { subscribe } from "../pushd.js";

const SVG = "http://www.w3.org/2000/svg";

/** How many messages are sent. */
const MESSAGES = 10;

/** How often plain polling asks, and how long the last message may take, in milliseconds. */
const POLL = 1000;
const PATIENCE = 5000;

/** The ways, and whether the daemon talks first in them. */
const WAYS = [
  { way: "poll", name: "Polling each second", short: "Polling", pushed: false },
  { way: "longpoll", name: "Long polling", short: "Long poll", pushed: true },
  { way: "sse", name: "Server-Sent Events", short: "Events", pushed: true },
  { way: "websocket", name: "WebSocket", short: "WebSocket", pushed: true },
];

/** The rows of the table: what stands before the numbers, and how to get one; or a heading. */
const ROWS = [
  ["Messages heard", ({ heard }) => count(heard)],
  ["Time on the way, mean", ({ heard, delay }) => (heard ? `${count(delay / heard)} ms` : "–")],
  ["Counted by the daemon"],
  ["Requests", ({ daemon }) => count(daemon.requests)],
  ["Bytes of requests", ({ daemon }) => count(daemon.received)],
  ["Bytes of answers", ({ daemon }) => count(daemon.sent)],
  ["Requests per message", (one) => count(perMessage(one).requests, 1)],
  ["Bytes per message", (one) => count(perMessage(one).bytes)],
  ["Counted by the browser"],
  ["Requests", ({ way, browser }) => (way === "websocket" ? "–" : count(browser.requests))],
  ["Bytes of answers", ({ way, browser }) => (way === "websocket" ? "–" : count(browser.bytes))],
];

const start = document.querySelector("#start");
const progress = document.querySelector("#progress");
const failure = document.querySelector("#failure");

/** Ends the measurement that runs, if one does. */
let running = null;

/** Send the messages, hear them in four ways, and show what that costs as it goes. */
async function measure() {
  const { signal } = running = new AbortController();
  const topic = `play/costs-${Math.random().toString(36).slice(2, 10)}`;
  const sent = [];
  const listeners = WAYS.map((way) => {
    return { ...way, heard: 0, delay: 0, browser: { requests: 0, bytes: 0 } };
  });
  const observer = observe(topic, listeners);
  const pace = Number(document.querySelector("#pace").value) * 1000;
  try {
    progress.textContent = "Connecting …";
    await Promise.all(listeners.map((one) => listen(one, topic, sent, signal)));
    for (let number = 0; number < MESSAGES; number += 1) {
      progress.textContent = `${number + 1} of ${MESSAGES} messages`;
      sent.push(performance.now());
      await post(topic, `${number} The train to Leipzig is ${number} minutes late`, signal);
      await sample(topic, listeners, signal);
      // Not in step with the one that polls.
      await sleep(pace * (0.5 + Math.random()), signal);
    }
    const deadline = performance.now() + PATIENCE;
    while (listeners.some(({ heard }) => heard < MESSAGES) && performance.now() < deadline) {
      await sleep(100, signal);
    }
    await sample(topic, listeners, signal);
    progress.textContent = "Done";
  } catch (error) {
    progress.textContent = "Stopped";
    if (!signal.aborted) fail(`The measurement failed: ${error.message}.`);
  } finally {
    running.abort();
    running = null;
    // The browser tells of a request once it has ended.
    await sleep(500);
    observer.disconnect();
    draw(listeners);
    start.textContent = "Measure again";
  }
}

/** Listen in one way until the signal comes; the promise is kept once it has begun. */
function listen(one, topic, sent, signal) {
  const url = address(one.way, topic);
  const take = ({ data }) => {
    one.heard += 1;
    one.delay += performance.now() - sent[Number.parseInt(data, 10)];
  };
  if (one.way === "poll") return poll(one, url, take, signal);
  return new Promise((resolve, reject) => {
    const { close } = subscribe(url, take, {
      transports: [one.way],
      onState: ({ state, reason }) => {
        if (state === "open") resolve();
        if (state === "closed") reject(new Error(reason));
      },
    });
    signal.addEventListener("abort", close);
  });
}

/** Ask each second whether there is something new, as pages do that know nothing better. */
async function poll(one, url, take, signal) {
  let after = "";
  const ask = async () => {
    const answer = await read(await fetch(`${url}?wait=0&after=${after}`, { signal }));
    answer.publications.forEach(take);
    after = answer.id;
  };
  const goOn = async () => {
    // Who has heard all asks no more, so that the daemon's last count and the browser's are of the
    // same requests.
    while (one.heard < MESSAGES) {
      await sleep(POLL, signal);
      await ask();
    }
  };
  await ask();
  // Where the daemon is gone, the next count says so.
  goOn().catch(() => {});
}

/** Count what the browser knows of its own requests (Resource Timing). */
function observe(topic, listeners) {
  const observer = new PerformanceObserver((list) => {
    for (const { name, transferSize } of list.getEntries()) {
      const one = listeners.find(({ way }) => name.startsWith(address(way, topic)));
      if (!one) continue;
      one.browser.requests += 1;
      one.browser.bytes += transferSize;
    }
  });
  observer.observe({ type: "resource" });
  return observer;
}

/** Ask the daemon for its count, and show it. */
async function sample(topic, listeners, signal) {
  const query = new URLSearchParams({ topic });
  const { costs } = await read(await fetch(`/play/costs/?${query}`, { signal, cache: "no-store" }));
  for (const one of listeners) one.daemon = costs[one.way];
  draw(listeners);
}

async function post(topic, body, signal) {
  const query = new URLSearchParams({ topic });
  await read(await fetch(`/play/publish/?${query}`, { method: "POST", body, signal }));
}

async function read(answer) {
  const value = await answer.json();
  if (!answer.ok) throw new Error(value.error);
  return value;
}

function address(way, topic) {
  return new URL(`/play/topics/${way}/${topic}`, location.href).href;
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

function fail(words) {
  failure.textContent = words;
  failure.hidden = false;
}

function perMessage({ heard, daemon }) {
  const messages = Math.max(1, heard);
  const bytes = (daemon.received + daemon.sent) / messages;
  return { requests: daemon.requests / messages, bytes };
}

function count(number, digits = 0) {
  const options = { minimumFractionDigits: digits, maximumFractionDigits: digits };
  return number.toLocaleString("en", options);
}

function draw(listeners) {
  if (!listeners.every(({ daemon }) => daemon)) return;
  document.querySelector("#results").hidden = false;
  drawChart("bytes", listeners, 0);
  drawChart("requests", listeners, 1);
  document.querySelector("#ways").replaceChildren(
    row(cell("td", ""), ...listeners.map(({ short }) => cell("th", short, { scope: "col" }))),
  );
  document.querySelector("#numbers").replaceChildren(...ROWS.map(([name, number]) => {
    if (!number) return row(cell("th", name, { scope: "rowgroup", colspan: WAYS.length + 1 }));
    const numbers = listeners.map((one) => cell("td", number(one), { "data-way": one.way }));
    return row(cell("th", name, { scope: "row" }), ...numbers);
  }));
}

/** Draw one bar for each way, `what` it takes per message. */
function drawChart(what, listeners, digits) {
  const chart = document.querySelector(`#${what}`);
  const values = listeners.map((one) => perMessage(one)[what]);
  const most = Math.max(...values);
  const said = listeners.map(({ name }, place) => `${name} ${count(values[place], digits)}`);
  chart.setAttribute("aria-label", `${said.join(", ")} ${what} per message`);
  chart.replaceChildren(...listeners.flatMap(({ name, pushed }, place) => {
    const value = values[place];
    const top = place * 3;
    return [
      shape("text", { x: "0", y: `${top + 1}em` }, name),
      shape("text", { x: "100%", y: `${top + 1}em`, class: "value" }, count(value, digits)),
      bar(top, 100, "track"),
      bar(top, most && (100 * value) / most, pushed ? "bar pushed" : "bar"),
    ];
  }));
}

function bar(top, percent, kind) {
  const size = { width: `${percent}%`, height: "0.6em", rx: "0.3em" };
  return shape("rect", { x: "0", y: `${top + 1.4}em`, ...size, class: kind });
}

function shape(name, attributes, words = "") {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.textContent = words;
  return made;
}

function cell(name, words, attributes = {}) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.textContent = words;
  return made;
}

function row(...cells) {
  const made = document.createElement("tr");
  made.append(...cells);
  return made;
}

document.querySelector("#measure").addEventListener("submit", (event) => {
  event.preventDefault();
  if (running) {
    running.abort();
    return;
  }
  failure.hidden = true;
  start.textContent = "Stop";
  measure();
});
