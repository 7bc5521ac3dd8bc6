import { subscribe } from "/pushd/pushd.js";

const form = document.querySelector("form");
const status = document.querySelector("#status");
const steps = document.querySelector("#steps");
let subscription = null;

// The address of the page has the id of its order, so that it can be reloaded, or opened elsewhere.
form.onsubmit = async (event) => {
  event.preventDefault();
  const answer = await fetch("/orders", {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify({ item: form.elements.thing.value }),
  });
  if (!answer.ok) {
    status.textContent = `The order was refused (${answer.status}).`;
    return;
  }
  const shown = await answer.json();
  history.replaceState(null, "", `#${shown.order.id}`);
  follow(shown);
};

async function reload() {
  const answer = await fetch(`/orders/${location.hash.slice(1)}`);
  if (answer.ok) follow(await answer.json());
  else status.textContent = "There is no such order.";
}

function follow({ order, after }) {
  subscription?.close();
  steps.replaceChildren();
  form.elements.thing.value = order.item;
  show(order.status);
  subscription = subscribe(`/topics/orders/${order.id}`, ({ data }) => show(data.status), {
    after,
    format: "json",
    // More was published than pushd keeps, or pushd has been restarted.
    onState: ({ recovered }) => {
      if (recovered === false) reload();
    },
  });
}

function show(text) {
  status.textContent = `Your order is ${text}.`;
  const item = document.createElement("li");
  item.textContent = text;
  steps.append(item);
}

if (location.hash) reload();
addEventListener("hashchange", reload);
