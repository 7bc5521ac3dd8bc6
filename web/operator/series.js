/**
 * What the metrics of the daemon say: rates, quantiles and differences between two snapshots.
 *
 * @module series
 */

/** How many seconds are kept, and shown by the charts. */
export const KEPT = 120;

/** The snapshots of the last two minutes: the value of each series, by its name in `/metrics`. */
export class History {
  constructor() {
    this.clear();
  }

  clear() {
    /** The snapshots, the oldest first: `{ time, series }`. */
    this.snapshots = [];
  }

  /**
   * Add a snapshot.
   *
   * @param {number} time In seconds since 1970.
   * @param {Object<string, number>} changed The series whose values have changed.
   */
  add(time, changed) {
    const series = { ...this.last?.series, ...changed };
    this.snapshots.push({ time, series });
    while (this.snapshots[0].time < time - KEPT) this.snapshots.shift();
  }

  /** The newest snapshot; undefined before the first. */
  get last() {
    return this.snapshots.at(-1);
  }

  /**
   * The newest snapshot that is a number of seconds older than another, or else the oldest.
   *
   * @param {number} seconds
   * @param {{time: number}} [than] The other one, the newest without it.
   */
  before(seconds, than = this.last) {
    // Timers are a little late: without this, a second would often be two.
    const time = than.time - seconds + 0.5;
    return this.snapshots.findLast((one) => one.time <= time) ?? this.snapshots[0];
  }

  /** How much a counter has grown in the last seconds; 0 if it was there from the beginning. */
  growth(name, seconds) {
    return value(this.last, name) - value(this.before(seconds), name);
  }

  /** How much a counter grows a second, on average over the last seconds; null if not known yet. */
  rate(name, seconds, until = this.last) {
    const from = this.before(seconds, until);
    if (from === until) return null;
    return (value(until, name) - value(from, name)) / (until.time - from.time);
  }

  /**
   * A quantile of what a histogram has counted in the last seconds, as Prometheus estimates it.
   *
   * @return {?number} In seconds; null if nothing was counted.
   */
  quantile(name, share, seconds, until = this.last) {
    const from = this.before(seconds, until);
    const buckets = [...labelled(until, `${name}_bucket`, "le")].map(([bound, count]) => {
      const counted = count - value(from, `${name}_bucket{le="${bound}"}`);
      return { bound: bound === "+Inf" ? Infinity : Number(bound), counted };
    });
    const rank = share * (buckets.at(-1)?.counted ?? 0);
    if (!rank) return null;
    let [lower, below] = [0, 0];
    for (const { bound, counted } of buckets) {
      if (counted >= rank) {
        if (bound === Infinity) return lower;
        return lower + ((bound - lower) * (rank - below)) / (counted - below);
      }
      [lower, below] = [bound, counted];
    }
    return lower;
  }

  /** Compute a number for each snapshot: `[time, number or null]`. */
  map(compute) {
    return this.snapshots.map((one) => [one.time, compute(one)]);
  }
}

/** The value of a series in a snapshot; 0 if it is not there. */
export function value(snapshot, name) {
  return snapshot.series[name] ?? 0;
}

/** The values of a metric by one of its labels, in the order of the daemon. */
export function labelled(snapshot, metric, label) {
  const pattern = new RegExp(`^${metric}\\{(?:.*,)?${label}="([^"]*)".*\\}$`);
  const found = new Map();
  for (const [name, number] of Object.entries(snapshot.series)) {
    const match = name.match(pattern);
    if (match) found.set(match[1], (found.get(match[1]) ?? 0) + number);
  }
  return found;
}
