/**
 * Who is present in a topic, as the server has said it last.
 *
 * @module presence
 */

/** The subjects that are present, by what identifies each: its name, or its only connection. */
export class Presence {
  constructor() {
    // Null if the server has not said it, or only counts them; then `_count` says how many.
    this._subjects = null;
    this._count = null;
  }

  /**
   * Return who is present, or null if the server has not said it.
   *
   * @returns {?{count: number, subjects: ?Array<{subject: ?string, connection: string,
   *   info: unknown}>}} `subjects` is null if there are so many that the server only counts them.
   */
  now() {
    if (this._subjects) {
      return { count: this._subjects.size, subjects: [...this._subjects.values()] };
    }
    return this._count === null ? null : { count: this._count, subjects: null };
  }

  /**
   * Take what the server says, and return what is new.
   *
   * @param {object} message A list, as the server sends it at first, or whoever joined or left.
   * @returns {Array<object>} `{ type: "present", count, subjects }`, or changes since the last list:
   *   `{ type: "joined" | "left", subject, connection, info }`.
   */
  update(message) {
    if ("joined" in message) return this._join(personOf(message));
    if ("left" in message) return this._leave(personOf(message));
    const { subjects, count } = message;
    const [before, isFirst] = [this._subjects, !this._subjects || !subjects];
    this._count = count;
    this._subjects = subjects && new Map(subjects.map((one) => [keyOf(personOf(one)), personOf(one)]));
    if (isFirst) return [{ type: "present", ...this.now() }];
    const [now, changes] = [this._subjects, []];
    for (const [key, one] of before) if (!now.has(key)) changes.push({ type: "left", ...one });
    for (const [key, one] of now) if (!before.has(key)) changes.push({ type: "joined", ...one });
    return changes;
  }

  _join(person) {
    if (!this._subjects || this._subjects.has(keyOf(person))) return [];
    this._subjects.set(keyOf(person), person);
    return [{ type: "joined", ...person }];
  }

  _leave(person) {
    return this._subjects?.delete(keyOf(person)) ? [{ type: "left", ...person }] : [];
  }
}

function personOf({ subject, connection, info }) {
  return { subject, connection, info };
}

function keyOf({ subject, connection }) {
  return JSON.stringify([subject, subject === null ? connection : null]);
}
