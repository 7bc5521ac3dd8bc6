/**
 * A chart of the last two minutes, in SVG: one line with the area below it, and perhaps a second.
 *
 * @module chart
 */

import { make, setText } from "./elements.js";
import { KEPT } from "./series.js";

const SVG = "http://www.w3.org/2000/svg";

/** The size of the drawing; it is stretched to that of its place. */
const [WIDTH, HEIGHT] = [240, 64];

/** The next number of 1, 2, 5, 10, 20, 50 … */
function byDecades(value) {
  const power = 10 ** Math.floor(Math.log10(value));
  // What is not exactly a power must not become the next step.
  const digits = Number((value / power).toPrecision(6));
  return [1, 2, 5, 10].find((step) => step >= digits) * power;
}

/** The next power of two, for sizes in bytes. */
export function byDoubling(value) {
  return 2 ** Math.ceil(Math.log2(value));
}

export class Chart {
  /**
   * @param {Object} scale
   * @param {function(number): string} scale.write Writes a value.
   * @param {number} scale.least The value that the top has at least.
   * @param {function(number): number} [scale.steps] Returns the value at the top for the largest.
   */
  constructor({ write, least, steps = byDecades }) {
    this.write = write;
    this.least = least;
    this.steps = steps;
    this.area = svg("path", { class: "area" });
    this.lines = ["second", "first"].map((name) => svg("path", { class: `line ${name}` }));
    this.drawing = svg(
      "svg",
      { role: "img", viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none" },
      this.area,
      ...this.lines,
    );
    this.top = make("span", { class: "top-value" });
    /** The chart, with its scale. */
    this.element = make(
      "div",
      { class: "chart-box" },
      this.top,
      this.drawing,
      make("span", { class: "from", "aria-hidden": "true" }, "2 min ago"),
      make("span", { class: "until", "aria-hidden": "true" }, "now"),
    );
    this.top.setAttribute("aria-hidden", "true");
  }

  /**
   * Draw.
   *
   * @param {string} name What is drawn, for those who cannot see it.
   * @param {Array<Array<[number, ?number]>>} lines The first line, and the second if there is one:
   *   times, and values that may be missing.
   */
  draw(name, lines) {
    const values = lines.flat().map(([, one]) => one).filter((one) => one !== null);
    const top = this.steps(Math.max(this.least, ...values));
    const now = lines[0].at(-1)?.[0] ?? 0;
    const points = lines.map((line) => {
      return line.map(([time, one]) => {
        if (one === null) return null;
        return [WIDTH - ((now - time) / KEPT) * WIDTH, HEIGHT - (one / top) * (HEIGHT - 2) - 1];
      });
    });
    this.area.setAttribute("d", areaOf(points[0]));
    this.lines[1].setAttribute("d", lineOf(points[0]));
    this.lines[0].setAttribute("d", points[1] ? lineOf(points[1]) : "");
    setText(this.top, this.write(top));
    const most = values.length ? `, at most ${this.write(Math.max(...values))}` : "";
    this.drawing.setAttribute("aria-label", `${name}, last two minutes${most}`);
  }
}

/** The parts of a line between missing values. */
function partsOf(points) {
  const parts = [[]];
  for (const point of points) {
    if (point) parts.at(-1).push(point);
    else if (parts.at(-1).length) parts.push([]);
  }
  return parts.filter((part) => part.length);
}

function lineOf(points) {
  return partsOf(points).map((part) => {
    // A single value is a short dash.
    const [[x, y]] = part;
    return part.length === 1 ? `M${at(x - 1)} ${at(y)}L${at(x)} ${at(y)}` : `M${part.map(pair).join("L")}`;
  }).join("");
}

function areaOf(points) {
  return partsOf(points).map((part) => {
    return `M${at(part[0][0])} ${HEIGHT}L${part.map(pair).join("L")}L${at(part.at(-1)[0])} ${HEIGHT}Z`;
  }).join("");
}

const pair = ([x, y]) => `${at(x)} ${at(y)}`;
const at = (length) => length.toFixed(1);


function svg(name, attributes, ...children) {
  const element = document.createElementNS(SVG, name);
  for (const [attribute, text] of Object.entries(attributes)) element.setAttribute(attribute, text);
  element.append(...children);
  return element;
}
