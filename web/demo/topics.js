/**
 * The page topics.html: listens to a topic, publishes to it, and has itself cut off from it.
 *
 * @module topics
 */

import { subscribe } from "../pushd.js";

const NAMES = { websocket: "WebSocket", sse: "Server-Sent Events", longpoll: "long polling" };

/** How long the connection is cut, and when something is published meanwhile, in seconds. */
const CUT = 5;
const MEANWHILE = [1, 2, 3];

/** An id that the daemon has certainly forgotten. */
const FORGOTTEN = "forgotten:1";

/** How many lines are shown. */
const LINES = 200;

const topic = document.querySelector("#topic");
const transport = document.querySelector("#transport");
const text = document.querySelector("#text");
const state = document.querySelector("#state");
const log = document.querySelector("#log");
const messages = document.querySelector("#messages");
const trouble = document.querySelector("#trouble");

/** What the page listens with. */
let handle;

/** The topic that the page listens to. */
let name = "";

/** How many publications came, and the last one's id. */
let [heard, last] = [0, null];

/** How many are missing between them, by their ids; not a number where nobody knows. */
let missing = 0;

/** When the connection was lost, or null. */
let gone = null;

/** Begin to listen to the topic that the form names. */
function begin() {
  name = topic.value;
  document.querySelector("#share").search = new URLSearchParams({ topic: name });
  [heard, last, missing, gone] = [0, null, 0, null];
  messages.replaceChildren();
  showCount();
  listen(null);
}

/** @param {?string} after The id to go on after; null to begin with what comes. */
function listen(after) {
  handle?.close();
  trouble.hidden = true;
  const way = transport.value;
  // Like /topics/, but the daemon counts bytes there, and cuts it off when it is told.
  handle = subscribe(`/play/topics/${way}/${name}`, take, {
    transports: way === "any" ? undefined : [way],
    after,
    onState: show,
  });
}

function take({ id, data }) {
  missing += offsetOf(id) - offsetOf(last) - 1;
  last = id;
  heard += 1;
  addLine(typeof data === "string" ? data : `${data.length} bytes`, id);
  showCount();
}

function show(now) {
  document.documentElement.dataset.state = now.state;
  const open = now.state === "open";
  state.textContent = {
    connecting: () => `Connecting by ${NAMES[now.transport]}`,
    open: () => `Open over ${NAMES[now.transport]}`,
    waiting: () => `Waiting ${now.seconds.toFixed(1)} s to try again`,
    closed: () => "Closed",
  }[now.state]();
  for (const id of ["#cut", "#late"]) document.querySelector(id).disabled = !open;
  if (open) showOpen(now);
  else if (now.state === "waiting" && gone === null) {
    gone = performance.now();
    addEvent("The connection is gone");
  } else if (now.state === "closed" && now.code !== 1000) {
    showTrouble(`The daemon does not let this page listen: ${now.reason} (${now.code}).`);
  }
}

function showOpen({ transport, id, recovered }) {
  const by = NAMES[transport];
  const away = ((performance.now() - gone) / 1000).toFixed(1);
  if (!recovered) {
    missing = NaN;
    addEvent(`Back over ${by}. recovered: false: what came meanwhile is forgotten`, "bad");
  } else if (last === null) {
    addEvent(`Listening over ${by}`);
  } else if (gone === null) {
    addEvent(`Going on over ${by}, from the same id`);
  } else {
    addEvent(`Back over ${by} after ${away} s. Nothing lost: what was missed follows`);
  }
  [gone, last] = [null, id];
  showCount();
}

/** Have the daemon cut the connection, and publish while nobody hears. */
async function cut() {
  const query = new URLSearchParams({ topic: name, seconds: CUT });
  if (!await post(`/play/cut/?${query}`, "")) return;
  for (const seconds of MEANWHILE) {
    setTimeout(publish, seconds * 1000, `Published ${seconds} s after the cut`);
  }
}

function publish(words) {
  return post(`/play/publish/?${new URLSearchParams({ topic: name })}`, words);
}

/** @returns {Promise<boolean>} Whether the daemon did it; if not, the page says why. */
async function post(url, body) {
  trouble.hidden = true;
  try {
    const answer = await fetch(url, { method: "POST", body });
    if (answer.ok) return true;
    // A view says it in JSON; where a token is missing the daemon says it itself, in a plain line.
    const said = await answer.text();
    const isJson = answer.headers.get("Content-Type") === "application/json";
    showTrouble(`The daemon refused: ${isJson ? JSON.parse(said).error : said.trim()}.`);
  } catch {
    showTrouble("The daemon could not be reached. Try again in a moment.");
  }
  return false;
}

function showTrouble(words) {
  trouble.textContent = words;
  trouble.hidden = false;
}

/** An id is `epoch:offset`; in an epoch the offset counts without a gap. */
function offsetOf(id) {
  return Number(id.split(":")[1]);
}

function showCount() {
  const words = Number.isNaN(missing) ? "some may be missing" : `${missing || "none"} missing`;
  document.querySelector("#count").textContent = heard ? `${heard} heard, ${words}` : "0 heard";
}

function addLine(words, id) {
  const line = document.createElement("li");
  line.dataset.id = id;
  const said = document.createElement("span");
  said.textContent = words;
  const number = document.createElement("span");
  number.className = "gap";
  number.textContent = id;
  line.append(said, " ", number);
  append(line);
}

function addEvent(words, kind = "") {
  const line = document.createElement("li");
  line.className = `event ${kind}`;
  line.textContent = words;
  append(line);
}

function append(line) {
  messages.append(line);
  if (messages.children.length > LINES) messages.firstChild.remove();
  log.scrollTop = log.scrollHeight;
}

document.querySelector("#listen").addEventListener("submit", (event) => {
  event.preventDefault();
  begin();
});
// The id goes on where it was, whatever the transport.
transport.addEventListener("change", () => listen(last));
document.querySelector("#publish").addEventListener("submit", (event) => {
  event.preventDefault();
  publish(text.value);
  text.select();
});
document.querySelector("#cut").addEventListener("click", cut);
document.querySelector("#late").addEventListener("click", () => listen(FORGOTTEN));

const mine = () => `play/${Math.random().toString(36).slice(2, 8)}`;
topic.value = new URLSearchParams(location.search).get("topic") ?? mine();
begin();
