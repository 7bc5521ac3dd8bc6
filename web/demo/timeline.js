/**
 * A timeline: one dot for each message on an axis of seconds.
 *
 * @module timeline
 */

const SVG = "http://www.w3.org/2000/svg";

/** The distance of the axis from the left and right edges, in per cent of the width. */
const MARGIN = 3;

/** The number of intervals that the axis is divided into. */
const INTERVALS = 5;

/** Draws into an SVG element; when the messages no longer fit, the axis doubles its range. */
export class Timeline {
  #svg;
  #elapsed;
  #marks = [];
  #origin = 0;
  #seconds = INTERVALS;
  #frame = 0;

  /** @param {SVGSVGElement} svg The element to draw in; its content is replaced. */
  constructor(svg) {
    this.#svg = svg;
    this.#elapsed = createElement("line", { class: "elapsed", y1: "40%", y2: "40%" });
    this.#draw();
  }

  /** Remove all marks. */
  clear() {
    cancelAnimationFrame(this.#frame);
    this.#marks = [];
    this.#seconds = INTERVALS;
    this.#draw();
  }

  /**
   * Start to animate the elapsed time.
   *
   * @param {number} time The origin of the axis, as `performance.now()` gives it.
   */
  start(time) {
    this.#origin = time;
    // The growing line is decoration; with reduced motion, the dots show as much.
    if (!matchMedia("(prefers-reduced-motion: reduce)").matches) this.#animate();
  }

  /**
   * Draw the dot of a message.
   *
   * @param {number} time When it arrived, as `performance.now()` gives it.
   */
  mark(time) {
    this.#add(createElement("circle", { class: "mark", cy: "40%", r: "6" }), time);
  }

  /**
   * Draw the end of the connection, and stop the animation.
   *
   * @param {number} time When it closed, as `performance.now()` gives it.
   */
  end(time) {
    cancelAnimationFrame(this.#frame);
    this.#add(createElement("line", { class: "end", y1: "18%", y2: "62%" }), time);
  }

  #add(shape, time) {
    const seconds = this.#since(time);
    this.#marks.push({ shape, seconds });
    this.#svg.append(shape);
    this.#fit(seconds);
    this.#place();
  }

  #since(time) {
    return (time - this.#origin) / 1000;
  }

  #percent(seconds) {
    return `${MARGIN + (seconds / this.#seconds) * (100 - 2 * MARGIN)}%`;
  }

  #animate() {
    this.#frame = requestAnimationFrame((time) => {
      this.#fit(this.#since(time));
      this.#elapsed.setAttribute("x2", this.#percent(Math.max(0, this.#since(time))));
      this.#animate();
    });
  }

  /** Double the range until it holds this moment. */
  #fit(seconds) {
    // The margin has room for a few per cent beyond the end of the axis.
    if (seconds <= this.#seconds * 1.02) return;
    while (seconds > this.#seconds * 1.02) this.#seconds *= 2;
    this.#draw();
  }

  #place() {
    for (const { shape, seconds } of this.#marks) {
      const x = this.#percent(seconds);
      for (const name of shape.localName === "circle" ? ["cx"] : ["x1", "x2"]) {
        shape.setAttribute(name, x);
      }
    }
    const last = this.#marks.at(-1);
    this.#elapsed.setAttribute("x1", this.#percent(0));
    this.#elapsed.setAttribute("x2", this.#percent(last ? last.seconds : 0));
  }

  #draw() {
    const axis = createElement("line", { class: "axis", y1: "40%", y2: "40%" });
    axis.setAttribute("x1", this.#percent(0));
    axis.setAttribute("x2", this.#percent(this.#seconds));
    const labels = Array.from({ length: INTERVALS + 1 }, (_, interval) => {
      const seconds = (interval * this.#seconds) / INTERVALS;
      const label = createElement("text", { x: this.#percent(seconds), y: "96%" });
      label.textContent = `${seconds} s`;
      return label;
    });
    this.#svg.replaceChildren(
      axis,
      this.#elapsed,
      ...labels,
      ...this.#marks.map(({ shape }) => shape),
    );
    this.#place();
  }
}

function createElement(name, attributes) {
  const element = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  return element;
}
