/**
 * The page at /test/: it says one thing to the server, then shows what the server sends by itself.
 *
 * @module test
 */

import { webSocketURL } from "../pushd.js";
import { Rhythm } from "./rhythm.js";

const GREETING = JSON.stringify(["1", "2", "3"]);

const STATES = ["Connecting", "Open", "Closing", "Closed"];

/** The names of the close codes (RFC 6455 §7.4.1 and the IANA registry that continues it). */
const CODES = {
  1000: "normal",
  1001: "going away",
  1002: "protocol error",
  1003: "unsupported data",
  1005: "none was sent",
  1006: "no goodbye came",
  1007: "bad text",
  1008: "against the rules",
  1009: "too big",
  1011: "error in the server",
  1012: "restarting",
  1013: "try again later",
};

/** What to try after an end that was not the normal one. */
const ADVICE = {
  1001: "The server is being stopped or restarted. Connect again in a moment.",
  1006: "The connection broke off: the server, or something on the way to it, went away without "
    + "a goodbye. Connect again; if it breaks off again, look at the server’s log.",
  1008: "The server ended the conversation because a rule was broken; the reason given says which.",
  1011: "Something failed inside the server; its log says what. Connecting again may help.",
  1012: "The server is being restarted. Connect again in a moment.",
  1013: "The server has too much to do just now. Connect again a little later.",
};

/** How long to ask whether the server is there at all, in milliseconds. */
const PATIENCE = 3000;

const state = document.querySelector("#state");
const opening = document.querySelector("#opening");
const messages = document.querySelector("#messages");
const close = document.querySelector("#close");
const trouble = document.querySelector("#trouble");
const again = document.querySelector("#again");
const leave = document.querySelector("#leave");
const rhythm = new Rhythm(document.querySelector("#rhythm"));

/** The conversation that the page shows. */
let socket;

/** Whether the page's buttons are in use. */
let pressed = false;

/** Begin a conversation, and show it from the first word to the close. */
function converse() {
  let last = 0;

  clear();
  const url = webSocketURL("/test/");
  const mine = new WebSocket(url);
  socket = mine;
  document.querySelector("#address").textContent = url;
  showState();

  mine.onopen = () => {
    last = performance.now();
    mine.send(GREETING);
    document.querySelector("#greeting").textContent = GREETING;
    opening.hidden = false;
    rhythm.start(last);
    showState();
  };

  mine.onmessage = ({ data }) => {
    const now = performance.now();
    showMessage(typeof data === "string" ? data : `${data.size} bytes`, now - last);
    rhythm.mark(now);
    last = now;
  };

  mine.onclose = async ({ code, reason, wasClean }) => {
    const opened = last > 0;
    if (opened) rhythm.end(performance.now());
    showState();
    showClose(code, reason, wasClean);
    const words = opened ? ADVICE[code] : await whyNot(url);
    // Somebody may have pressed the button while the answer was on its way.
    if (words && socket === mine) showTrouble(words);
  };

  // A browser tells a page no more than that it failed; onclose follows and finds the words.
  mine.onerror = showState;
}

/**
 * Find words for a WebSocket that never opened.
 *
 * Browsers hide the cause from the page, so it asks for itself over plain HTTP.
 *
 * @param {string} url What did not open.
 * @returns {Promise<string>} What went wrong, and what to try.
 */
async function whyNot(url) {
  try {
    await fetch(location.href, {
      method: "HEAD",
      cache: "no-store",
      signal: AbortSignal.timeout(PATIENCE),
    });
  } catch {
    return `The server could not be reached at ${url}. It may have been stopped, or the network `
      + "may be down. Start it again, or check the network, then press “Connect again”.";
  }
  return `The server is there, but it did not open ${url}. Either it refused, and its log says `
    + "why, or a proxy on the way does not let WebSockets pass: it must hand on the Upgrade and "
    + "Connection headers.";
}

function clear() {
  messages.replaceChildren();
  rhythm.clear();
  delete close.dataset.code;
  delete close.dataset.reason;
  delete close.dataset.clean;
  for (const part of [opening, close, trouble]) part.hidden = true;
}

function showState() {
  const word = STATES[socket.readyState];
  const over = socket.readyState === WebSocket.CLOSED;
  state.textContent = word;
  document.documentElement.dataset.state = word.toLowerCase();
  again.disabled = !over;
  leave.disabled = socket.readyState !== WebSocket.OPEN;
  // A button loses the keyboard's focus when it is switched off: give it back, unless somebody
  // has gone elsewhere meanwhile.
  if (over && pressed && document.activeElement === document.body) again.focus();
}

/**
 * @param {string} text What the server said; shown as text, whatever it holds.
 * @param {number} gap How long after the message before, or after the opening, in milliseconds.
 */
function showMessage(text, gap) {
  const line = document.createElement("li");
  line.dataset.text = text;
  line.dataset.gap = gap.toFixed(1);
  const words = document.createElement("span");
  words.textContent = text;
  const time = document.createElement("span");
  time.className = "gap";
  time.textContent = `+${gap.toFixed(0)} ms`;
  line.append(words, " ", time);
  messages.append(line);
}

function showClose(code, reason, clean) {
  document.querySelector("#code").textContent = CODES[code] ? `${code}, ${CODES[code]}` : code;
  document.querySelector("#reason").textContent = reason || "none given";
  document.querySelector("#clean").textContent = clean ? "yes" : "no";
  close.dataset.code = code;
  close.dataset.reason = reason;
  close.dataset.clean = clean;
  close.hidden = false;
}

function showTrouble(words) {
  trouble.textContent = words;
  trouble.hidden = false;
}

again.addEventListener("click", () => {
  pressed = true;
  converse();
});
leave.addEventListener("click", () => {
  pressed = true;
  socket.close(1000, "the page left");
  showState();
});
converse();
