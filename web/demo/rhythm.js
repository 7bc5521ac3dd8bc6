/**
 * A drawing of when things came: one dot for each message on a line of seconds.
 *
 * @module rhythm
 */

const SVG = "http://www.w3.org/2000/svg";

/** The line starts and ends this far from the drawing's edges, in per cent of its width. */
const MARGIN = 3;

/** The line is divided into this many parts. */
const PARTS = 5;

/** What draws the line; a conversation that outgrows it makes its scale coarser. */
export class Rhythm {
  #drawing;
  #elapsed;
  #marks = [];
  #origin = 0;
  #seconds = PARTS;
  #frame = 0;

  /** @param {SVGSVGElement} drawing The element to draw in; its content is replaced. */
  constructor(drawing) {
    this.#drawing = drawing;
    this.#elapsed = element("line", { class: "elapsed", y1: "40%", y2: "40%" });
    this.#draw();
  }

  /** Forget what was drawn. */
  clear() {
    cancelAnimationFrame(this.#frame);
    this.#marks = [];
    this.#seconds = PARTS;
    this.#draw();
  }

  /**
   * Let the line grow from now on.
   *
   * @param {number} time The moment that is zero seconds, as `performance.now()` gives it.
   */
  start(time) {
    this.#origin = time;
    // The line that grows is decoration; who prefers stillness has the dots.
    if (!matchMedia("(prefers-reduced-motion: reduce)").matches) this.#grow();
  }

  /**
   * Draw one dot.
   *
   * @param {number} time When it came, as `performance.now()` gives it.
   */
  mark(time) {
    const dot = element("circle", { class: "mark", cy: "40%", r: "6" });
    this.#marks.push({ shape: dot, seconds: this.#since(time) });
    this.#drawing.append(dot);
    this.#reach(this.#since(time));
    this.#place();
  }

  /**
   * Draw the end, and let the line grow no more.
   *
   * @param {number} time When it came, as `performance.now()` gives it.
   */
  end(time) {
    cancelAnimationFrame(this.#frame);
    const bar = element("line", { class: "end", y1: "18%", y2: "62%" });
    this.#marks.push({ shape: bar, seconds: this.#since(time) });
    this.#drawing.append(bar);
    this.#reach(this.#since(time));
    this.#place();
  }

  #since(time) {
    return (time - this.#origin) / 1000;
  }

  #percent(seconds) {
    return `${MARGIN + (seconds / this.#seconds) * (100 - 2 * MARGIN)}%`;
  }

  #grow() {
    this.#frame = requestAnimationFrame((time) => {
      this.#reach(this.#since(time));
      this.#elapsed.setAttribute("x2", this.#percent(Math.max(0, this.#since(time))));
      this.#grow();
    });
  }

  /** Make the scale coarser when this moment does not fit. */
  #reach(seconds) {
    // A few per cent past the last second still fit into the margin.
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
    const line = element("line", { class: "line", y1: "40%", y2: "40%" });
    line.setAttribute("x1", this.#percent(0));
    line.setAttribute("x2", this.#percent(this.#seconds));
    const labels = Array.from({ length: PARTS + 1 }, (_, part) => {
      const seconds = (part * this.#seconds) / PARTS;
      const label = element("text", { x: this.#percent(seconds), y: "96%" });
      label.textContent = `${seconds} s`;
      return label;
    });
    this.#drawing.replaceChildren(
      line,
      this.#elapsed,
      ...labels,
      ...this.#marks.map(({ shape }) => shape),
    );
    this.#place();
  }
}

function element(name, attributes) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return made;
}
