import { webSocketURL } from "/pushd.js";

const form = document.querySelector("form");
const status = document.querySelector("#status");
const said = document.querySelector("#said");

const socket = new WebSocket(webSocketURL("/echo/"));

socket.onopen = () => {
  status.textContent = "Connected. Every message you send comes back.";
  form.querySelector("button").disabled = false;
};

socket.onmessage = ({ data }) => {
  const line = document.createElement("li");
  line.textContent = data;
  said.append(line);
};

socket.onclose = ({ code }) => {
  status.textContent = `Disconnected (${code}). Reload the page to connect again.`;
  form.querySelector("button").disabled = true;
};

form.onsubmit = (event) => {
  event.preventDefault();
  socket.send(form.elements.text.value);
  form.reset();
};
