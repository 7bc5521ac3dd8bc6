/**
 * The dialog that asks before something is closed or cancelled.
 *
 * @module confirm
 */

import { setText } from "./elements.js";

const dialog = document.querySelector("#confirm");
const form = document.querySelector("#confirm-form");
const trouble = document.querySelector("#confirm-trouble");

/** What is asked at the moment. */
let asked = null;

/**
 * Ask.
 *
 * @param {Object} question
 * @param {string} question.title
 * @param {string} question.text What it is about.
 * @param {string} question.yes The text of the button.
 * @param {boolean} [question.asksReason] Whether a close code and a reason can be chosen.
 * @param {function(Object): Promise<void>} question.send Does it.
 * @param {function(): Promise<void>} question.done Called when it is done.
 */
export function confirm(question) {
  asked = question;
  form.reset();
  setText(document.querySelector("#confirm-title"), question.title);
  setText(document.querySelector("#confirm-text"), question.text);
  setText(document.querySelector("#confirm-yes"), question.yes);
  document.querySelector("#confirm-fields").hidden = !question.asksReason;
  trouble.hidden = true;
  dialog.showModal();
}

form.addEventListener("submit", async (event) => {
  event.preventDefault();
  try {
    const fields = asked.asksReason ? Object.fromEntries(new FormData(form)) : {};
    await asked.send(fields);
  } catch (error) {
    // It has ended by itself: that is what was wanted.
    if (error.status !== 404) {
      setText(trouble, error.message);
      trouble.hidden = false;
      return;
    }
  }
  // The focus goes back to the button before its row is removed, and then to the table.
  dialog.close();
  await asked.done();
});

document.querySelector("#confirm-no").addEventListener("click", () => dialog.close());
