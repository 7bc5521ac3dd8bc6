// What the scenarios for all transports share.
import assert from "node:assert/strict";

const { URL_API, API_KEY } = process.env;

// Resolves with the contexts of the next events of a kind.
export function next(emitter, kind, count = 1) {
  return new Promise((resolve) => {
    const seen = [];
    const listen = (context) => {
      seen.push(context);
      if (seen.length === count) {
        emitter.removeListener(kind, listen);
        resolve(seen);
      }
    };
    emitter.on(kind, listen);
  });
}

// Publishes at the control port.
export async function publish(channel, data) {
  const headers = { "X-API-Key": API_KEY };
  const body = JSON.stringify({ channel, data });
  const answer = await fetch(`${URL_API}/publish`, { method: "POST", headers, body });
  assert.equal(answer.status, 200);
}
