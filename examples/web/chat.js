import { webSocketURL } from "/pushd.js";

const enter = document.querySelector("#enter");
const say = document.querySelector("#say");
const status = document.querySelector("#status");
const said = document.querySelector("#said");

const [, , room] = location.pathname.split("/");
document.querySelector("#room").textContent = `Chat: ${decodeURIComponent(room)}`;

let socket;

enter.onsubmit = (event) => {
  event.preventDefault();
  const query = new URLSearchParams({ name: enter.elements.name.value });
  socket = new WebSocket(webSocketURL(`/chat/${room}/?${query}`));
  status.textContent = "Connecting …";
  enter.hidden = true;

  socket.onopen = () => {
    status.textContent = "Connected.";
    say.hidden = false;
    say.elements.text.focus();
  };

  socket.onmessage = ({ data }) => {
    const { name, text, event } = JSON.parse(data);
    const line = document.createElement("li");
    line.textContent = event ? `${name} ${event}` : `${name}: ${text}`;
    line.className = event ? "quiet" : "";
    said.append(line);
    line.scrollIntoView({ block: "nearest" });
  };

  socket.onclose = ({ code, reason }) => {
    status.textContent = `Disconnected (${code}${reason && `, ${reason}`}). Join again?`;
    say.hidden = true;
    enter.hidden = false;
  };
};

say.onsubmit = (event) => {
  event.preventDefault();
  socket.send(say.elements.text.value);
  say.reset();
};
