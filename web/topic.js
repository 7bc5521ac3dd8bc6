/**
 * A topic of a connection with many, and the parts of the page that share it.
 *
 * @module topic
 */

import { callSafely, publicationOf } from "./connection.js";
import { Presence } from "./presence.js";

const SUBSCRIBING = { state: "subscribing" };

/** A part of the page that has subscribed to a topic. */
export class Listener {
  /**
   * @param {(publication: object) => void} onPublication
   * @param {object} options Those of `subscribe()` of a connection.
   */
  constructor(onPublication, { after = null, onPresence = null, onState = () => {} }) {
    this.onPublication = onPublication;
    this.onPresence = onPresence;
    this.state = SUBSCRIBING;
    this.after = after || null;
    // Whether the topic has been open for it.
    this.hasStarted = false;
    this._onState = onState;
  }

  /** Note the state, and tell it if it has changed. */
  setState(state) {
    if (state.state === "open") this.hasStarted = true;
    this.state = state;
    callSafely(this._onState, state);
  }
}

/** A topic: one subscription at the server, for all its listeners in the page. */
export class Topic {
  /**
   * @param {string} name
   * @param {?string} after The id of the last publication that the page has, if any.
   */
  constructor(name, after) {
    this.name = name;
    // The id that the next publication follows; null if it is not known.
    this.id = after;
    // Whether the cursor of the connection says that, too.
    this.isCovered = false;
    // How often in a row the server could not subscribe to it.
    this.failures = 0;
    this._presence = new Presence();
    this._listeners = new Set();
    this._state = SUBSCRIBING;
    // What the subscription at the server resumes after; null if it starts with what comes next.
    this._after = null;
  }

  get isWanted() {
    return this._listeners.size > 0;
  }

  get wantsPresence() {
    return [...this._listeners].some(({ onPresence }) => onPresence);
  }

  /** Who is present, or null if the server has not said it. */
  get present() {
    return this._presence.now();
  }

  /** Return what to resume after, if the connection has this cursor; null for what comes next. */
  positionAt(cursor) {
    return this.id ?? (this.isCovered ? cursor : null);
  }

  /** Add a listener, which gets what is published from now on. */
  add(listener) {
    this._listeners.add(listener);
  }

  remove(listener) {
    this._listeners.delete(listener);
  }

  /** Tell the listeners that came after the topic had been opened. */
  welcome() {
    if (this._state.state !== "open") return;
    for (const listener of [...this._listeners]) {
      if (listener.hasStarted) continue;
      this._start(listener, this.id, false);
      const present = this._presence.now();
      if (listener.onPresence && present) {
        callSafely(listener.onPresence, { type: "present", ...present });
      }
    }
  }

  /** The server is asked to subscribe, and to resume after this; null for what comes next. */
  requested(after) {
    this._after = after;
  }

  /**
   * The server has subscribed.
   *
   * @param {?string} id The id that the next publication follows; null if it does not say.
   * @param {boolean} recovered False if publications are missing before that.
   */
  opened(id, recovered) {
    // If there was nothing to resume after, nothing can be lost.
    const isComplete = recovered || this._after === null;
    const isNews = this._state.state !== "open" || !isComplete;
    this.id = id ?? (recovered ? this.id : null);
    this._state = { state: "open", id: this.id, recovered: isComplete };
    for (const listener of [...this._listeners]) {
      if (!listener.hasStarted) this._start(listener, this.id, isComplete);
      else if (isNews) listener.setState(this._state);
    }
    // From now on something can be lost, whether its id is known or not.
    this._after = this.id ?? "";
  }

  /** The connection is lost. */
  lost() {
    if (this._state.state === "open") this._tell(SUBSCRIBING);
  }

  /** The subscription has ended for good. */
  closed(code, reason) {
    this._tell({ state: "closed", code, reason });
    this._listeners.clear();
  }

  /** Deliver a publication. */
  published(message) {
    this.id = message.id;
    const publication = publicationOf(message);
    for (const { onPublication } of [...this._listeners]) callSafely(onPublication, publication);
  }

  /** Tell who is present, joined or left. */
  updatePresence(message) {
    for (const change of this._presence.update(message)) {
      for (const { onPresence } of [...this._listeners]) {
        if (onPresence) callSafely(onPresence, change);
      }
    }
  }

  /** Tell a listener of the topic's opening; if it has an id, it misses nothing only from there. */
  _start(listener, id, isComplete) {
    const { after } = listener;
    const recovered = after === null || after === id || (isComplete && after === this._after);
    listener.setState({ state: "open", id, recovered });
  }

  _tell(state) {
    this._state = state;
    for (const listener of [...this._listeners]) listener.setState(state);
  }
}
