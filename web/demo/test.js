/**
 * The page at /test/: sends one message, then shows what the server pushes, and how it closes.
 *
 * @module test
 */

import { webSocketURL } from "../pushd.js";
import { Timeline } from "./timeline.js";

const GREETING = JSON.stringify(["1", "2", "3"]);

const STATES = ["Connecting", "Open", "Closing", "Closed"];

/** The names of the close codes (RFC 6455 §7.4.1 and the IANA registry that continues it). */
const CODES = {
  1000: "normal closure",
  1001: "going away",
  1002: "protocol error",
  1003: "unsupported data",
  1005: "no status received",
  1006: "abnormal closure",
  1007: "invalid payload data",
  1008: "policy violation",
  1009: "message too big",
  1011: "internal error",
  1012: "service restart",
  1013: "try again later",
};

/** What to do after a close that was not the normal one. */
const ADVICE = {
  1001: "The server is being stopped or restarted. Reconnect in a moment.",
  1006: "The connection was lost: the server, or a proxy in between, dropped it without a close "
    + "frame. Reconnect; if it happens again, look at the server’s log.",
  1008: "The client broke a rule of the server; the close reason says which one.",
  1011: "A view failed inside the server; its log says why. Reconnecting may help.",
  1012: "The server is being restarted. Reconnect in a moment.",
  1013: "The server is overloaded. Reconnect a little later.",
};

/** How long to wait for the server when a WebSocket did not open, in milliseconds. */
const PROBE_TIMEOUT = 3000;

const state = document.querySelector("#state");
const sent = document.querySelector("#sent");
const messages = document.querySelector("#messages");
const closing = document.querySelector("#closing");
const trouble = document.querySelector("#trouble");
const reconnectButton = document.querySelector("#reconnect");
const closeButton = document.querySelector("#close");
const timeline = new Timeline(document.querySelector("#timeline"));

/** The current WebSocket. */
let socket;

/** Whether a button of the page has been pressed. */
let pressed = false;

/** Open a WebSocket, and show all that happens until it is closed. */
function connect() {
  let last = 0;

  clear();
  const url = webSocketURL("/test/");
  const current = new WebSocket(url);
  socket = current;
  document.querySelector("#address").textContent = url;
  showState();

  current.onopen = () => {
    last = performance.now();
    current.send(GREETING);
    document.querySelector("#greeting").textContent = GREETING;
    sent.hidden = false;
    timeline.start(last);
    showState();
  };

  current.onmessage = ({ data }) => {
    const now = performance.now();
    showMessage(typeof data === "string" ? data : `${data.size} bytes`, now - last);
    timeline.mark(now);
    last = now;
  };

  current.onclose = async ({ code, reason, wasClean }) => {
    const opened = last > 0;
    if (opened) timeline.end(performance.now());
    showState();
    showClosing(code, reason, wasClean);
    const text = opened ? ADVICE[code] : await probe(url);
    // The user may have reconnected during the probe.
    if (text && socket === current) showTrouble(text);
  };

  // An error event has no details; the close event follows.
  current.onerror = showState;
}

/**
 * Find out why a WebSocket did not open, by a plain HTTP request: browsers hide the reason.
 *
 * @param {string} url The address that did not open.
 * @returns {Promise<string>} What went wrong, and what to do.
 */
async function probe(url) {
  try {
    await fetch(location.href, {
      method: "HEAD",
      cache: "no-store",
      signal: AbortSignal.timeout(PROBE_TIMEOUT),
    });
  } catch {
    return `The server could not be reached at ${url}. It may have been stopped, or the network `
      + "may be down. Start it again, or check the network, then press “Reconnect”.";
  }
  return `The server is running, but it did not open ${url}. Either it refused, and its log says `
    + "why, or a proxy in between does not pass WebSockets on: it must forward the Upgrade and "
    + "Connection headers.";
}

function clear() {
  messages.replaceChildren();
  timeline.clear();
  delete closing.dataset.code;
  delete closing.dataset.reason;
  delete closing.dataset.clean;
  for (const element of [sent, closing, trouble]) element.hidden = true;
}

function showState() {
  const name = STATES[socket.readyState];
  const closed = socket.readyState === WebSocket.CLOSED;
  state.textContent = name;
  document.documentElement.dataset.state = name.toLowerCase();
  reconnectButton.disabled = !closed;
  closeButton.disabled = socket.readyState !== WebSocket.OPEN;
  // A disabled button loses the keyboard focus: give it back, unless the user has moved it since.
  if (closed && pressed && document.activeElement === document.body) reconnectButton.focus();
}

/**
 * @param {string} text The message, shown as plain text.
 * @param {number} gap The time since the previous message, or since the opening, in milliseconds.
 */
function showMessage(text, gap) {
  const item = document.createElement("li");
  item.dataset.text = text;
  item.dataset.gap = gap.toFixed(1);
  const message = document.createElement("span");
  message.textContent = text;
  const time = document.createElement("span");
  time.className = "gap";
  time.textContent = `+${gap.toFixed(0)} ms`;
  item.append(message, " ", time);
  messages.append(item);
}

function showClosing(code, reason, clean) {
  document.querySelector("#code").textContent = CODES[code] ? `${code}, ${CODES[code]}` : code;
  document.querySelector("#reason").textContent = reason || "none";
  document.querySelector("#clean").textContent = clean ? "yes" : "no";
  closing.dataset.code = code;
  closing.dataset.reason = reason;
  closing.dataset.clean = clean;
  closing.hidden = false;
}

function showTrouble(text) {
  trouble.textContent = text;
  trouble.hidden = false;
}

reconnectButton.addEventListener("click", () => {
  pressed = true;
  connect();
});
closeButton.addEventListener("click", () => {
  pressed = true;
  socket.close(1000, "closed by the page");
  showState();
});
connect();
