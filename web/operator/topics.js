/**
 * The topics: their subscribers, rules, presence and last publications.
 *
 * @module topics
 */

import { ask, urlOf } from "./control.js";
import { cell, make, plainFacts, Rows, setText } from "./elements.js";
import { age, count, counted, size } from "./words.js";

/** How many topics, publications and subjects are shown at most. */
const [MOST, PUBLICATIONS, SUBJECTS] = [100, 10, 50];

/** How many characters of a publication are shown at most. */
const LONGEST = 2000;

export class Topics {
  constructor() {
    this.form = document.querySelector("#search-topics");
    this.status = document.querySelector("#topics-count");
    this.rows = new Rows(
      document.querySelector("#topic-rows"),
      ({ topic }) => topic,
      ({ topic }) => new TopicRow(topic),
    );
    this.rules = new Rows(
      document.querySelector("#rule-rows"),
      ({ match }) => `${match}`,
      () => new RuleRow(),
    );
  }

  /** Ask for the topics, and show them. */
  async refresh(signal) {
    const { name, order } = Object.fromEntries(new FormData(this.form));
    const url = urlOf("topics", { name: name.trim(), order, limit: MOST });
    const [{ topics, total }, { rules }] = await Promise.all([
      ask(url, { signal }),
      ask("rules", { signal }),
    ]);
    this.rows.show(topics);
    this.rules.show(rules);
    const shown = topics.length < total ? `, the first ${topics.length} are shown` : "";
    setText(this.status, `${counted(total, "topic")}${shown}`);
    await Promise.all([...this.rows.shown.values()].map((row) => row.refresh(signal)));
  }
}

/** A topic, and what is shown below it if it is open. */
class TopicRow {
  constructor(topic) {
    this.topic = topic;
    this.id = `topic-${(TopicRow.number = (TopicRow.number ?? 0) + 1)}`;
    const attributes = { type: "button", class: "open", "aria-expanded": "false", "aria-controls": this.id };
    this.button = make("button", attributes, topic);
    this.button.addEventListener("click", () => this.toggle());
    this.cells = [..."nnnn"].map(() => cell("number"));
    this.last = cell("id");
    const head = make("th", { scope: "row" }, this.button);
    this.details = make("div", { class: "details" });
    this.below = make("tr", { class: "below", id: this.id, hidden: "" }, make("td", { colspan: "6" }, this.details));
    this.nodes = [make("tr", {}, head, ...this.cells, this.last), this.below];
    this.facts = null;
  }

  update({ id, history, subscribers }) {
    const transports = ["websocket", "sse", "longpoll"];
    const numbers = [...transports.map((one) => subscribers[one] ?? 0), history];
    this.cells.forEach((one, place) => setText(one, count(numbers[place])));
    setText(this.last, id ?? "–");
  }

  async toggle() {
    this.below.hidden = !this.below.hidden;
    this.button.setAttribute("aria-expanded", `${!this.below.hidden}`);
    if (!this.facts) this.build();
    await this.refresh().catch(() => {});
  }

  build() {
    const [facts, subjects] = [make("dl", { class: "facts" }), make("ul", { class: "subjects" })];
    this.facts = plainFacts(facts);
    this.subjects = new Rows(subjects, ({ key }) => key, () => {
      const node = make("li");
      return { nodes: [node], update: ({ text }) => setText(node, text) };
    });
    this.show = make("button", { type: "button" }, "Show the last publications");
    this.show.addEventListener("click", () => this.showPublications());
    this.publications = make("ol", { class: "publications" });
    this.said = make("p", { class: "count", role: "status" });
    const publish = make("a", { class: "action", href: `#publish=${encodeURIComponent(this.topic)}` }, "Publish to it");
    const buttons = make("p", { class: "buttons" }, this.show, publish);
    this.details.append(facts, subjects, buttons, this.said, this.publications);
  }

  /** Ask for its rule and presence, if it is open. */
  async refresh(signal) {
    if (this.below.hidden) return;
    const rule = await ask(urlOf("rules", { topic: this.topic }), { signal });
    const facts = ruleFacts(rule);
    let people = [];
    if (rule.presence) {
      const present = await ask(urlOf("presence", { topic: this.topic }), { signal });
      facts.push(["Present", `${counted(present.count, "subject")}, ${counted(present.connections, "connection")}`]);
      people = (present.subjects ?? []).slice(0, SUBJECTS);
    }
    this.facts.show(facts);
    this.subjects.show(people.map(({ subject, connection, connections }) => {
      const key = subject ?? connection;
      const more = connections.length > 1 ? ` (${connections.length})` : "";
      return { key, text: `${key}${more}` };
    }));
  }

  async showPublications() {
    try {
      const url = urlOf("publications", { topic: this.topic, limit: PUBLICATIONS });
      const { publications, history } = await ask(url);
      this.publications.replaceChildren(...publications.map(publicationItem));
      const of = publications.length < history ? ` of ${history} kept` : "";
      setText(this.said, publications.length ? `The last ${publications.length}${of}` : "None is kept");
    } catch (error) {
      setText(this.said, error.message);
    }
  }
}

class RuleRow {
  constructor() {
    this.head = make("th", { scope: "row" });
    this.cells = ["", "", "number", "number", "number", ""].map((kind) => cell(kind));
    this.nodes = [make("tr", {}, this.head, ...this.cells)];
  }

  update(rule) {
    setText(this.head, rule.match ?? "all others");
    const texts = [
      rule.subscribe,
      rule.publish,
      count(rule["history-size"]),
      age(rule["history-ttl"]),
      size(rule["max-message"]),
      ["presence", "latest", "retain"].filter((one) => rule[one]).join(", ") || "–",
    ];
    this.cells.forEach((one, place) => setText(one, texts[place]));
  }
}

function ruleFacts(rule) {
  return [
    ["Rule", rule.match ?? "none matches"],
    ["Subscribe", rule.subscribe],
    ["Publish", rule.publish],
    ["Keeps", `${count(rule["history-size"])} for ${age(rule["history-ttl"])}`],
  ];
}

/** A publication as an item of a list. */
function publicationItem({ id, event, data, base64 }) {
  const text = data ?? base64;
  const name = event ? `${id}, event ${event}` : id;
  const kind = data === undefined ? " (base64)" : "";
  const cut = text.length > LONGEST ? ` (the first ${LONGEST} of ${count(text.length)} characters)` : "";
  const shown = make("pre", {}, text.slice(0, LONGEST));
  return make("li", {}, make("p", { class: "id" }, `${name}${kind}${cut}`), shown);
}
