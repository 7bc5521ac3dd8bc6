/**
 * The open connections: search, and close one.
 *
 * @module connections
 */

import { confirm } from "./confirm.js";
import { ask, urlOf } from "./control.js";
import { cell, make, Rows, setText } from "./elements.js";
import { age, count, counted, size, TRANSPORTS } from "./words.js";

/** How many are shown at most. */
const MOST = 100;

export class Connections {
  /** @param {function(): Promise<void>} changed Called after one was closed. */
  constructor(changed) {
    this.form = document.querySelector("#search-connections");
    this.status = document.querySelector("#connections-count");
    this.rows = new Rows(
      document.querySelector("#connection-rows"),
      ({ id }) => id,
      (connection) => new ConnectionRow(connection, changed),
    );
  }

  /** Ask for those that match, and show them. */
  async refresh(signal) {
    const asked = Object.fromEntries(new FormData(this.form));
    for (const name of Object.keys(asked)) asked[name] = asked[name].trim();
    const { connections, total } = await ask(
      urlOf("connections", { ...asked, limit: MOST }),
      { signal },
    );
    this.rows.show(connections);
    const shown = connections.length < total ? `, the oldest ${connections.length} are shown` : "";
    setText(this.status, `${counted(total, "connection")}${shown}`);
  }
}

class ConnectionRow {
  constructor({ id, transport, peer, path, subject, topics }, changed) {
    const close = make("button", { type: "button", "aria-label": `Close connection ${id}` }, "Close");
    close.addEventListener("click", () => confirm({
      title: `Close connection ${id}?`,
      text: `${peer}, ${path}${subject === null ? "" : `, subject ${subject}`}`,
      yes: "Close it",
      asksReason: transport === "websocket",
      send: (fields) => ask(urlOf(`connections/${id}`, fields), { method: "DELETE" }),
      done: changed,
    }));
    this.numbers = [cell("number"), cell("number"), cell("number")];
    this.topics = topics;
    this.path = cell("path");
    setText(this.path, path);
    const texts = [TRANSPORTS[transport], peer].map((text) => make("td", {}, text));
    const who = make("td", { class: "path" }, subject ?? "–");
    const head = make("th", { scope: "row" }, `${id}`);
    const last = make("td", { class: "action" }, close);
    this.nodes = [make("tr", {}, head, ...texts, this.path, who, ...this.numbers, last)];
  }

  update({ since, path, topics, messages_in, bytes_in, messages_out, bytes_out }) {
    const of = topics === undefined ? path : `${path} (${counted(topics, "topic")})`;
    setText(this.path, of);
    const texts = [
      age((Date.now() - Date.parse(since)) / 1000),
      `${count(messages_in)} (${size(bytes_in)})`,
      `${count(messages_out)} (${size(bytes_out)})`,
    ];
    this.numbers.forEach((one, place) => setText(one, texts[place]));
  }
}
