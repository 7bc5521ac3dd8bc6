/**
 * The form that publishes, at once or later.
 *
 * @module publish
 */

import { ask, urlOf } from "./control.js";
import { setText } from "./elements.js";
import { clock, counted } from "./words.js";

const form = document.querySelector("#publish-form");
const said = document.querySelector("#published");
const trouble = document.querySelector("#unpublished");

/** Fill in a topic. */
export function choose(topic) {
  form.elements.topic.value = topic;
}

async function publish() {
  const { topic, kind, data, ...parameters } = Object.fromEntries(new FormData(form));
  const answer = await ask(urlOf(`topics/${topic}`, parameters), {
    method: "POST",
    headers: { "Content-Type": kind },
    body: data,
  });
  if (answer.schedule) return `Scheduled as ${answer.schedule}, the first at ${clock(answer.due)}`;
  return `Published as ${answer.id} to ${counted(answer.subscribers, "subscriber")}`;
}

form.addEventListener("submit", async (event) => {
  event.preventDefault();
  trouble.hidden = true;
  setText(said, "");
  try {
    setText(said, await publish());
  } catch (error) {
    setText(trouble, error.message);
    trouble.hidden = false;
  }
});
