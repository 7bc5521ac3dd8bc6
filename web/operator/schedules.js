/**
 * The timed pushes that are not finished: list, and cancel one.
 *
 * @module schedules
 */

import { confirm } from "./confirm.js";
import { ask } from "./control.js";
import { cell, make, Rows, setText } from "./elements.js";
import { clock, count, counted, number } from "./words.js";

/** How many are shown at most. */
const MOST = 100;

export class Schedules {
  /** @param {function(): Promise<void>} changed Called after one was cancelled. */
  constructor(changed) {
    this.status = document.querySelector("#schedules-count");
    this.rows = new Rows(
      document.querySelector("#schedule-rows"),
      ({ schedule }) => schedule,
      (one) => new ScheduleRow(one, changed),
    );
  }

  /** Ask for them, and show them. */
  async refresh(signal) {
    const { schedules, total } = await ask(`schedules?limit=${MOST}`, { signal });
    this.rows.show(schedules);
    const shown = schedules.length < total ? `, the oldest ${schedules.length} are shown` : "";
    setText(this.status, `${counted(total, "timed push", "timed pushes")}${shown}`);
  }
}

class ScheduleRow {
  constructor({ schedule, topic, count: times, every }, changed) {
    const cancel = make("button", { type: "button", "aria-label": `Cancel ${schedule} to ${topic}` }, "Cancel");
    cancel.addEventListener("click", () => confirm({
      title: "Cancel this timed push?",
      text: `${topic}, ${schedule}`,
      yes: "Cancel it",
      send: () => ask(`schedules/${schedule}`, { method: "DELETE" }),
      done: changed,
    }));
    this.times = times;
    this.done = cell("number");
    this.due = cell();
    const head = make("th", { scope: "row" }, topic);
    const interval = make("td", { class: "number" }, every ? `${number(every)} s` : "once");
    const name = make("td", { class: "id" }, schedule);
    const last = make("td", { class: "action" }, cancel);
    this.nodes = [make("tr", {}, head, this.done, interval, this.due, name, last)];
  }

  update({ done, due }) {
    setText(this.done, `${count(done)} of ${count(this.times)}`);
    setText(this.due, clock(due));
  }
}
