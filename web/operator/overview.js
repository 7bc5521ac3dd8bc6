/**
 * The overview: the figures with their charts, and what went wrong.
 *
 * @module overview
 */

import { Chart, byDoubling } from "./chart.js";
import { make, plainFacts, plainRows, setText } from "./elements.js";
import { labelled, value } from "./series.js";
import { age, count, counted, delay, number, size, TRANSPORTS } from "./words.js";

/** Over how many seconds rates and quantiles are computed: the numbers, and points of a chart. */
const [RATE_SPAN, QUANTILE_SPAN, POINT_SPAN] = [5, 60, 10];

/** For how many seconds what was counted is new. */
const NEW_SPAN = 60;

/** What the reasons of refusals mean; see docs/monitoring.md. */
const REASONS = {
  bad_request: "malformed",
  unauthorized: "no valid token",
  forbidden: "Origin, Host or topic not allowed",
  not_found: "no such path",
  request_timeout: "too slow",
  content_too_large: "body too large",
  uri_too_long: "URL too long",
  misdirected: "name not served",
  upgrade_required: "no WebSocket",
  headers_too_large: "headers too large",
  busy: "a limit is reached",
};

/** What close codes mean; see docs/monitoring.md. */
const CODES = {
  1000: "normal",
  1001: "going away",
  1002: "protocol error",
  1005: "no code",
  1006: "connection lost",
  1007: "not UTF-8",
  1008: "policy: token, rate or operator",
  1009: "message too big",
  1011: "a view failed",
  1013: "try again later: too slow",
  other: "an application's own",
};

/** Counters that should stand still. */
const TROUBLES = [
  ["Views that failed", "pushd_view_errors_total"],
  ["Slow subscribers cut", "pushd_slow_subscribers_cut_total"],
  ["Closed for lack of memory", "pushd_buffered_closed_total"],
  ["Clients slowed down", "pushd_slowed_total"],
  ["Timed pushes dropped", "pushd_scheduled_dropped_total"],
];

/** The figures: each has a title, and shows what it computes from the history. */
const FIGURES = [
  {
    title: "Connections",
    unit: "open",
    write: count,
    least: 10,
    compute: (history) => ({
      value: count(connectionsOf(history.last)),
      lines: [history.map(connectionsOf)],
      facts: [
        ...Object.entries(TRANSPORTS).map(([transport, name]) => {
          return [name, count(byTransport(history.last)[transport] ?? 0)];
        }),
        ["Limit", count(value(history.last, "pushd_connections_limit"))],
      ],
    }),
  },
  {
    title: "Deliveries",
    unit: "a second",
    write: number,
    least: 10,
    second: "Publications",
    compute: (history) => {
      const [deliveries, publications] = ["pushd_deliveries_total", "pushd_publications_total"];
      const points = (name) => history.map((one) => history.rate(name, 1, one));
      const subscribers = [...labelled(history.last, "pushd_subscribers", "transport").values()];
      return {
        value: rateOf(history, deliveries),
        lines: [points(deliveries), points(publications)],
        facts: [
          ["Publications a second", rateOf(history, publications)],
          ["Subscriptions", count(subscribers.reduce((sum, one) => sum + one, 0))],
          ["Deliveries in all", count(value(history.last, deliveries))],
        ],
      };
    },
  },
  durationFigure("Time to publish", "pushd_publish_seconds"),
  durationFigure("Push lateness", "pushd_push_lateness_seconds"),
  durationFigure("Reactor lag", "pushd_reactor_lag_seconds"),
  {
    title: "Memory",
    unit: "of the process",
    write: size,
    least: 1 << 20,
    steps: byDoubling,
    second: "Buffered",
    compute: (history) => {
      const buffered = (one) => sum(labelled(one, "pushd_buffered_bytes", "kind"));
      const kinds = labelled(history.last, "pushd_buffered_bytes", "kind");
      return {
        value: size(value(history.last, "pushd_resident_bytes")),
        lines: [history.map((one) => value(one, "pushd_resident_bytes")), history.map(buffered)],
        facts: [
          ["Buffered", size(buffered(history.last))],
          ["Limit of buffers", size(value(history.last, "pushd_buffered_bytes_limit"))],
          ["History", size(value(history.last, "pushd_history_bytes"))],
          ["Unsent", size(kinds.get("send") ?? 0)],
        ],
      };
    },
  },
];

export class Overview {
  constructor() {
    this.figures = FIGURES.map((figure, place) => new Figure(figure, place));
    document.querySelector("#figures").append(...this.figures.map(({ element }) => element));
    this.refused = plainRows(document.querySelector("#refused"), 3);
    this.closed = plainRows(document.querySelector("#closed"), 3);
    this.troubles = plainRows(document.querySelector("#troubles"), 3);
    this.health = plainFacts(document.querySelector("#health"));
    this.about = {};
  }

  /** Show the newest snapshot. */
  show(history) {
    for (const figure of this.figures) figure.show(history);
    this.showCounts("refused", history, "pushd_refused_total", "reason", REASONS);
    this.showCounts("closed", history, "pushd_closed_total", "code", CODES);
    this.troubles.show(TROUBLES.map(([name, series]) => {
      return [name, count(history.growth(series, NEW_SPAN)), count(value(history.last, series))];
    }));
    this.health.show(this.healthOf(history.last));
    const up = age(history.last.time - this.about.started);
    const text = `Up for ${up}. Topics are kept in ${this.about.broker}.`;
    setText(document.querySelector("#uptime"), text);
  }

  showCounts(id, history, metric, label, meanings) {
    const rows = [...labelled(history.last, metric, label)].map(([name, all]) => {
      const meaning = meanings[name];
      const lately = history.growth(`${metric}{${label}="${name}"}`, NEW_SPAN);
      return [meaning ? `${name}: ${meaning}` : name, count(lately), count(all)];
    });
    this[id].show(rows.sort(([one], [other]) => (one < other ? -1 : 1)));
    document.querySelector(`#no-${id}`).hidden = rows.length > 0;
    document.querySelector(`#${id}`).closest("table").hidden = rows.length === 0;
  }

  healthOf(last) {
    const threads = (kind) => {
      const busy = value(last, `pushd_threads_busy{kind="${kind}"}`);
      const limit = value(last, `pushd_threads_limit{kind="${kind}"}`);
      return `${count(busy)} of ${count(limit)} busy`;
    };
    const facts = [
      ["Publishing", value(last, "pushd_broker_up") ? "possible" : "not possible: see /readyz"],
    ];
    if (this.about.state) {
      const unwritten = counted(value(last, "pushd_state_unwritten"), "publication");
      facts.push(["Disk", value(last, "pushd_state_up") ? "can be written" : "cannot be written"]);
      facts.push(["Not on disk yet", unwritten]);
      facts.push(["Size on disk", size(value(last, "pushd_state_bytes"))]);
    }
    facts.push(["Threads for views", threads("view")]);
    if ('pushd_threads_busy{kind="page"}' in last.series) {
      facts.push(["Threads for pages", threads("page")]);
      const waiting = value(last, 'pushd_threads_waiting{kind="page"}');
      facts.push(["Pages that wait", count(waiting)]);
    }
    facts.push(["Stragglers", count(value(last, "pushd_threads_stragglers"))]);
    facts.push(["Timers", count(value(last, "pushd_timers"))]);
    return facts;
  }
}

/** One figure: its title, the number, a chart and further facts. */
class Figure {
  constructor(figure, place) {
    this.figure = figure;
    this.chart = new Chart(figure);
    this.number = make("span", { class: "big" });
    const title = make("h2", { id: `figure-${place}` }, figure.title);
    const list = make("dl", { class: "facts" });
    this.facts = plainFacts(list);
    const legend = make("p", { class: "legend", "aria-hidden": "true" });
    if (figure.second) {
      legend.append(make("span", { class: "first" }, figure.first ?? figure.title));
      legend.append(make("span", { class: "second" }, figure.second));
    }
    this.element = make(
      "section",
      { class: "card figure", "aria-labelledby": title.id },
      title,
      make("p", { class: "value" }, this.number, " ", make("span", { class: "unit" }, figure.unit)),
      this.chart.element,
      legend,
      list,
    );
  }

  show(history) {
    const { value: shown, lines, facts } = this.figure.compute(history);
    setText(this.number, shown);
    this.chart.draw(`${this.figure.title} ${this.figure.unit}`, lines);
    this.facts.show(facts);
  }
}

/** A figure of a histogram: the quantiles of the last minute. */
function durationFigure(title, name) {
  return {
    title,
    unit: "99th percentile",
    write: delay,
    least: 0.001,
    first: "99th percentile",
    second: "Median",
    compute: (history) => {
      const quantile = (share) => history.quantile(name, share, QUANTILE_SPAN);
      const points = (share) => {
        return history.map((one) => history.quantile(name, share, POINT_SPAN, one));
      };
      return {
        value: delay(quantile(0.99)),
        lines: [points(0.99), points(0.5)],
        facts: [
          ["Median", delay(quantile(0.5))],
          ["90th percentile", delay(quantile(0.9))],
          ["Measurements", count(history.growth(`${name}_count`, QUANTILE_SPAN))],
        ],
      };
    },
  };
}

function byTransport(snapshot) {
  return Object.fromEntries(labelled(snapshot, "pushd_connections", "transport"));
}

function connectionsOf(snapshot) {
  return sum(labelled(snapshot, "pushd_connections", "transport"));
}

function rateOf(history, name) {
  const rate = history.rate(name, RATE_SPAN);
  return rate === null ? "–" : number(rate);
}

function sum(numbers) {
  let total = 0;
  for (const one of numbers.values()) total += one;
  return total;
}
