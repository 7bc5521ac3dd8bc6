/**
 * Makes elements, and keeps tables up to date. All texts are set as text, never as HTML.
 *
 * @module elements
 */

/**
 * Make an element.
 *
 * @param {string} name
 * @param {Object<string, string>} attributes
 * @param {...(Node|string)} children
 */
export function make(name, attributes = {}, ...children) {
  const element = document.createElement(name);
  for (const [attribute, text] of Object.entries(attributes)) element.setAttribute(attribute, text);
  element.append(...children);
  return element;
}

/** Set the text of an element, unless it has it: then nothing is drawn anew, or said again. */
export function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/** Make a cell of a table. */
export function cell(kind = "") {
  return make("td", kind ? { class: kind } : {});
}

/**
 * The rows of a table, one for each item of a list. A row stays the same while its item is listed,
 * so that it keeps the focus and what is open in it.
 */
export class Rows {
  /**
   * @param {HTMLElement} body The table's body.
   * @param {function(Object): string} keyOf Returns what no two items have in common.
   * @param {function(Object): {nodes: HTMLElement[], update: function(Object): void}} add
   *   Makes the rows of an item, and what brings them up to date.
   */
  constructor(body, keyOf, add) {
    this.body = body;
    this.keyOf = keyOf;
    this.add = add;
    this.shown = new Map();
  }

  /** Show these items, in their order. */
  show(items) {
    const keys = new Set(items.map(this.keyOf));
    for (const [key, { nodes }] of this.shown) {
      if (keys.has(key)) continue;
      this.remove(nodes);
      this.shown.delete(key);
    }
    let next = this.body.firstElementChild;
    for (const item of items) {
      const key = this.keyOf(item);
      if (!this.shown.has(key)) this.shown.set(key, this.add(item));
      const entry = this.shown.get(key);
      entry.update(item);
      for (const node of entry.nodes) {
        // To move a row would take the focus from it.
        if (node === next) next = next.nextElementSibling;
        else this.body.insertBefore(node, next);
      }
    }
  }

  /** Remove the rows of an item; the focus in them goes to the table. */
  remove(nodes) {
    const hadFocus = nodes.some((node) => node.contains(document.activeElement));
    for (const node of nodes) node.remove();
    if (hadFocus) this.body.closest("[tabindex]")?.focus();
  }
}

/** Rows of a table with one text for each column; the first is the head of the row. */
export function plainRows(body, columns) {
  return new Rows(body, ([key]) => key, () => {
    const head = make("th", { scope: "row" });
    const cells = Array.from({ length: columns - 1 }, () => cell());
    const update = (texts) => {
      [head, ...cells].forEach((one, place) => setText(one, texts[place]));
    };
    return { nodes: [make("tr", {}, head, ...cells)], update };
  });
}

/** Entries of a description list, `[term, text]`, each kept as long as its term is there. */
export function plainFacts(list) {
  return new Rows(list, ([term]) => term, ([term]) => {
    const text = make("dd");
    const node = make("div", {}, make("dt", {}, term), text);
    return { nodes: [node], update: ([, shown]) => setText(text, shown) };
  });
}
