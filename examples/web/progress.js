import { webSocketURL } from "/pushd.js";

const form = document.querySelector("form");
const start = document.querySelector("#start");
const stop = document.querySelector("#stop");
const bar = document.querySelector("progress");
const status = document.querySelector("#status");
const result = document.querySelector("#key");

form.onsubmit = (event) => {
  event.preventDefault();
  const query = new URLSearchParams({ word: form.elements.word.value });
  const socket = new WebSocket(webSocketURL(`/progress/?${query}`));
  start.disabled = true;
  bar.value = 0;
  result.textContent = "";
  status.textContent = "Starting …";

  socket.onopen = () => {
    stop.disabled = false;
    stop.onclick = () => socket.close();
  };

  socket.onmessage = ({ data }) => {
    const { done, of, key } = JSON.parse(data);
    bar.max = of;
    bar.value = done;
    status.textContent = `${done} of ${of} steps`;
    result.textContent = key ?? "";
  };

  // A finished job closes with 1000; the page's own close() sends no code and is reported as 1005.
  socket.onclose = ({ code }) => {
    start.disabled = false;
    stop.disabled = true;
    if (code === 1005) status.textContent = `Stopped at ${status.textContent}`;
    else if (code === 1000) status.textContent = "Done.";
    else status.textContent = `Disconnected (${code}). Start again?`;
  };
};
