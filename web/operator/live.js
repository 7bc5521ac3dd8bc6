/**
 * The daemon's event stream: a snapshot of its metrics each second.
 *
 * @module live
 */

/** How long to wait before the stream is opened again, in milliseconds. */
const RETRY = 3000;

export class Live {
  /**
   * @param {Object} listener What is called:
   *   `about(object)` once the stream is open, `snapshot({ time, series })`, and `state(name)`:
   *   "connecting", "live", "lost" or "paused".
   */
  constructor(listener) {
    this.listener = listener;
    this.source = null;
    this.timer = 0;
    /** Whether the last attempt has failed. */
    this.isLost = false;
  }

  /** Open the stream. */
  open() {
    this.close();
    // What is tried again and again is not announced each time.
    if (!this.isLost) this.listener.state("connecting");
    const source = this.source = new EventSource("snapshots");
    source.addEventListener("about", ({ data }) => this.listener.about(JSON.parse(data)));
    source.addEventListener("snapshot", ({ data }) => {
      this.isLost = false;
      this.listener.state("live");
      this.listener.snapshot(JSON.parse(data));
    });
    source.addEventListener("error", () => {
      // After a refusal, browsers do not try again by themselves; else not always for long.
      source.close();
      this.isLost = true;
      this.listener.state("lost");
      this.timer = setTimeout(() => this.open(), RETRY);
    });
  }

  /** Close it: the daemon does nothing for a page that is paused, or not seen. */
  close() {
    clearTimeout(this.timer);
    this.source?.close();
    this.source = null;
  }

  /** Close it, and say so. */
  pause() {
    this.close();
    this.isLost = false;
    this.listener.state("paused");
  }
}
