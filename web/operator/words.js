/**
 * How numbers, sizes and times are written.
 *
 * @module words
 */

const whole = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const short = new Intl.NumberFormat("en", { maximumSignificantDigits: 3 });

/** A number: whole from 100 on, with three digits below. */
export function number(value) {
  return Math.abs(value) >= 100 ? whole.format(value) : short.format(value);
}

/** A whole number. */
export function count(value) {
  return whole.format(value);
}

/** A whole number and its noun, in the plural unless it is one. */
export function counted(value, noun, nouns = `${noun}s`) {
  return `${whole.format(value)} ${value === 1 ? noun : nouns}`;
}

/** A size in bytes. */
export function size(bytes) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let [left, unit] = [bytes, 0];
  while (left >= 1000 && unit < units.length - 1) [left, unit] = [left / 1024, unit + 1];
  return `${number(left)} ${units[unit]}`;
}

/** A short time in seconds; a dash for null. */
export function delay(seconds) {
  if (seconds === null) return "–";
  return seconds < 1 ? `${number(seconds * 1000)} ms` : `${number(seconds)} s`;
}

/** A longer time in seconds, in its largest unit. */
export function age(seconds) {
  const passed = Math.max(0, seconds);
  for (const [unit, length] of [["d", 86400], ["h", 3600], ["min", 60]]) {
    if (passed >= length) return `${Math.floor(passed / length)} ${unit}`;
  }
  return `${Math.floor(passed)} s`;
}

/** A time in seconds or as text, by the clock of the browser's place. */
export function clock(time) {
  const moment = new Date(typeof time === "number" ? time * 1000 : time);
  const isToday = moment.toDateString() === new Date().toDateString();
  return isToday ? moment.toLocaleTimeString("en-GB") : moment.toLocaleString("en-GB");
}

/** The names of the transports. */
export const TRANSPORTS = {
  websocket: "WebSocket",
  sse: "Server-Sent Events",
  longpoll: "Long polling",
  http: "HTTP",
};
