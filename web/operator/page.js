/**
 * The operator's page: shows one section at a time, and keeps it up to date.
 *
 * @module page
 */

import { Connections } from "./connections.js";
import { setText } from "./elements.js";
import { Live } from "./live.js";
import { Overview } from "./overview.js";
import { choose } from "./publish.js";
import { Schedules } from "./schedules.js";
import { History } from "./series.js";
import { Topics } from "./topics.js";

/** How often lists are asked for while they are seen, and how long after a key, in milliseconds. */
const [REFRESH, TYPED] = [5000, 250];

const STATES = {
  connecting: "Connecting …",
  live: "Live",
  lost: "Connection lost, trying again",
  paused: "Paused",
};

const history = new History();
const overview = new Overview();
const lists = {
  topics: new Topics(),
  connections: new Connections(refresh),
  schedules: new Schedules(refresh),
};
const pauseButton = document.querySelector("#pause");
const trouble = document.querySelector("#trouble");

let section = "overview";
let paused = false;
let typed = 0;

/** Aborts the question that is not answered yet; null without one. */
let asking = null;

const live = new Live({
  about(about) {
    // The series of another process begin anew.
    if (about.started !== overview.about.started) history.clear();
    overview.about = about;
    document.documentElement.dataset.page = about.page;
    document.querySelector("#read-only").hidden = about.page === "on";
    setText(document.querySelector("#version"), about.version);
  },
  snapshot({ time, series }) {
    history.add(time, series);
    if (section === "overview") overview.show(history);
  },
  state(name) {
    document.documentElement.dataset.state = name;
    setText(document.querySelector("#live"), STATES[name]);
  },
});

/** Show the section that the URL names, and move the focus to its title. */
function route({ moveFocus }) {
  const [[name, argument] = ["overview", ""]] = new URLSearchParams(location.hash.slice(1));
  const next = document.querySelector(`main > section[id="${CSS.escape(name)}"]`);
  if (!next) return; // Such as #main.
  for (const one of document.querySelectorAll("main > section")) one.hidden = one !== next;
  for (const link of document.querySelectorAll("nav a")) {
    if (link.hash === `#${next.id}`) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  section = next.id;
  const title = next.querySelector("h1");
  document.title = `${title.textContent} · ${location.host} · pushd`;
  if (argument && section === "publish") choose(argument);
  if (moveFocus) title.focus();
  if (section === "overview" && history.last) overview.show(history);
  refresh();
}

/** Ask for the list that is shown; an answer to an earlier question is not shown any more. */
async function refresh() {
  asking?.abort();
  const mine = asking = new AbortController();
  try {
    await lists[section]?.refresh(mine.signal);
    trouble.hidden = true;
  } catch (error) {
    if (mine.signal.aborted) return;
    setText(trouble, error.message);
    trouble.hidden = false;
  } finally {
    if (asking === mine) asking = null;
  }
}

/** Follow the daemon while the page is seen and not paused. */
function follow() {
  if (paused) live.pause();
  else if (document.hidden) live.close();
  else live.open();
}

pauseButton.addEventListener("click", () => {
  paused = !paused;
  pauseButton.setAttribute("aria-pressed", `${paused}`);
  follow();
  if (!paused) refresh();
});

for (const form of document.querySelectorAll("form[role=search]")) {
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    refresh();
  });
  form.addEventListener("input", () => {
    clearTimeout(typed);
    typed = setTimeout(refresh, TYPED);
  });
}

document.addEventListener("visibilitychange", follow);
addEventListener("hashchange", () => route({ moveFocus: true }));
setInterval(() => {
  const isLive = document.documentElement.dataset.state === "live";
  if (!paused && !document.hidden && isLive && !asking) refresh();
}, REFRESH);

setText(document.querySelector("#host"), location.host);
route({ moveFocus: false });
follow();
