/**
 * The page topics.html: subscribes to a topic, publishes to it, and has its connection cut.
 *
 * @module topics
 */

import { subscribe } from "../pushd.js";

const NAMES = { websocket: "WebSocket", sse: "Server-Sent Events", longpoll: "long polling" };

/** How long the connection is cut, and when messages are published meanwhile, in seconds. */
const CUT_DURATION = 5;
const PUBLISH_DURING_CUT = [1, 2, 3];

/** An id that is in no topic's history. */
const UNKNOWN_ID = "unknown:1";

/** The maximum number of lines in the log. */
const MAX_LINES = 200;

/** How often the countdown to a reconnect is updated, in milliseconds. */
const TICK = 100;

const topicField = document.querySelector("#topic");
const transportField = document.querySelector("#transport");
const textField = document.querySelector("#text");
const state = document.querySelector("#state");
const log = document.querySelector("#log");
const messages = document.querySelector("#messages");
const trouble = document.querySelector("#trouble");

/** The current subscription. */
let subscription;

/** Its topic. */
let topic = "";

/** The number of publications received, and the id of the last one. */
let [received, lastId] = [0, null];

/** The number of publications missed, from the gaps between ids; NaN if unknown. */
let missing = 0;

/** When the connection was lost, as `performance.now()` gives it; null while it is open. */
let lostAt = null;

/** The timer of the countdown to a reconnect. */
let countdown = 0;

/** The style of the list, which gets room below its last line: see `scrollToEnd`. */
const [sheet] = document.styleSheets;
const listStyle = sheet.cssRules[sheet.insertRule("#messages {}", sheet.cssRules.length)].style;

/** Subscribe to the topic in the form, from now on. */
function start() {
  topic = topicField.value;
  document.querySelector("#share").search = new URLSearchParams({ topic });
  [received, lastId, missing, lostAt] = [0, null, 0, null];
  messages.replaceChildren();
  showCount();
  resume(null);
}

/** @param {?string} after The id to resume after; null to start with the next publication. */
function resume(after) {
  subscription?.close();
  trouble.hidden = true;
  const transport = transportField.value;
  // The same as /topics/, except that the daemon counts the bytes, and cuts it on request.
  subscription = subscribe(`/play/topics/${transport}/${topic}`, onPublication, {
    transports: transport === "any" ? undefined : [transport],
    after,
    onState,
  });
}

function onPublication({ id, data }) {
  missing += offsetOf(id) - offsetOf(lastId) - 1;
  lastId = id;
  received += 1;
  addMessage(typeof data === "string" ? data : `${data.length} bytes`, id);
  showCount();
}

function onState(now) {
  document.documentElement.dataset.state = now.state;
  const open = now.state === "open";
  state.textContent = {
    connecting: () => `Connecting over ${NAMES[now.transport]}`,
    open: () => `Open over ${NAMES[now.transport]}`,
    waiting: () => "Reconnecting",
    closed: () => "Closed",
  }[now.state]();
  clearInterval(countdown);
  if (now.state === "waiting") showCountdown(now.seconds);
  for (const id of ["#cut", "#late"]) document.querySelector(id).disabled = !open;
  if (open) onOpen(now);
  else if (now.state === "waiting" && lostAt === null) {
    lostAt = performance.now();
    addEvent("Connection lost");
  } else if (now.state === "closed" && now.code !== 1000) {
    showTrouble(`The daemon closed the subscription: ${now.reason} (${now.code}).`);
  }
}

/** Show the time until the reconnect. Screen readers do not read it out: it changes too often. */
function showCountdown(seconds) {
  const end = performance.now() + seconds * 1000;
  const rest = document.createElement("span");
  rest.ariaHidden = "true";
  state.append(rest);
  const update = () => {
    const left = Math.max(0, end - performance.now()) / 1000;
    rest.textContent = ` in ${left.toFixed(1)} s`;
  };
  update();
  countdown = setInterval(update, TICK);
}

function onOpen({ transport, id, recovered }) {
  const name = NAMES[transport];
  const seconds = ((performance.now() - lostAt) / 1000).toFixed(1);
  if (!recovered) {
    missing = NaN;
    const loss = "The daemon no longer has every message that was missed: some may be lost";
    addEvent(`Reconnected over ${name}. ${loss}`, "bad");
  } else if (lastId === null) {
    addEvent(`Subscribed over ${name}`);
  } else if (lostAt === null) {
    addEvent(`Resumed over ${name}, after the same id`);
  } else {
    addEvent(`Reconnected over ${name} after ${seconds} s. Nothing lost: missed messages follow`);
  }
  [lostAt, lastId] = [null, id];
  showCount();
}

/** Have the daemon cut the connection, and publish while it is down. */
async function cut() {
  const query = new URLSearchParams({ topic, seconds: CUT_DURATION });
  if (!await post(`/play/cut/?${query}`, "")) return;
  for (const seconds of PUBLISH_DURING_CUT) {
    setTimeout(publish, seconds * 1000, `Published ${seconds} s after the cut`);
  }
}

function publish(text) {
  return post(`/play/publish/?${new URLSearchParams({ topic })}`, text);
}

/** @returns {Promise<boolean>} Whether it succeeded; if not, the page shows why. */
async function post(url, body) {
  trouble.hidden = true;
  try {
    const response = await fetch(url, { method: "POST", body });
    if (response.ok) return true;
    // The views answer errors as JSON; a missing token is answered as plain text.
    const text = await response.text();
    const isJson = response.headers.get("Content-Type") === "application/json";
    showTrouble(`The daemon refused: ${isJson ? JSON.parse(text).error : text.trim()}.`);
  } catch {
    showTrouble("The daemon could not be reached. Try again in a moment.");
  }
  return false;
}

function showTrouble(text) {
  trouble.textContent = text;
  trouble.hidden = false;
}

/** The offset of an id, `epoch:offset`: within an epoch, offsets are consecutive. */
function offsetOf(id) {
  return Number(id.split(":")[1]);
}

function showCount() {
  const gaps = Number.isNaN(missing) ? "some may be missing" : `${missing || "none"} missing`;
  const count = document.querySelector("#count");
  count.textContent = received ? `${received} received, ${gaps}` : "0 received";
}

function addMessage(text, id) {
  const item = document.createElement("li");
  item.dataset.id = id;
  const message = document.createElement("span");
  message.textContent = text;
  const label = document.createElement("span");
  label.className = "gap";
  label.textContent = id;
  item.append(message, " ", label);
  append(item);
}

function addEvent(text, className = "") {
  const item = document.createElement("li");
  item.className = `event ${className}`;
  item.textContent = text;
  append(item);
}

function append(item) {
  messages.append(item);
  if (messages.children.length > MAX_LINES) messages.firstChild.remove();
  scrollToEnd();
}

/** Show the last lines, the first of them whole: room below the list makes up for its height. */
function scrollToEnd() {
  listStyle.paddingBottom = "";
  const top = messages.getBoundingClientRect().top;
  const tops = Array.from(messages.children, (item) => item.getBoundingClientRect().top - top);
  const end = log.scrollHeight - log.clientHeight;
  // Without such a line, the last one is taller than the log.
  const first = tops.find((offset) => offset >= end) ?? tops.at(-1) ?? 0;
  if (end > 0) listStyle.paddingBottom = `${Math.max(0, first - end)}px`;
  log.scrollTop = first;
}

document.querySelector("#subscribe").addEventListener("submit", (event) => {
  event.preventDefault();
  start();
});
// Another transport resumes after the same id.
transportField.addEventListener("change", () => resume(lastId));
document.querySelector("#publish").addEventListener("submit", (event) => {
  event.preventDefault();
  publish(textField.value);
  textField.select();
});
document.querySelector("#cut").addEventListener("click", cut);
addEventListener("resize", scrollToEnd);
document.querySelector("#late").addEventListener("click", () => resume(UNKNOWN_ID));

const randomTopic = () => `play/${Math.random().toString(36).slice(2, 8)}`;
topicField.value = new URLSearchParams(location.search).get("topic") ?? randomTopic();
start();
