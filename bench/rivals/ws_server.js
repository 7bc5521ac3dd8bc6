// `ws` on Node.js as its documentation says: a loop over clients, one interval for the pings.
"use strict";

const path = require("path");
const { WebSocketServer } = require(path.join(process.argv[2], "node_modules", "ws"));

const PING_INTERVAL = 25000;
const subscribers = new Set();

const views = {
  "/test/": (socket) => {
    const push = (number) => {
      if (number === 10) return socket.close(1000);
      socket.send(`service message: ${number}`);
      setTimeout(push, 500, number + 1);
    };
    socket.on("message", () => push(0));
  },
  "/subscribe/": (socket) => {
    subscribers.add(socket);
    socket.on("close", () => subscribers.delete(socket));
  },
  "/publish/": (socket) => {
    socket.on("message", (data, isBinary) => {
      for (const subscriber of subscribers) subscriber.send(data, { binary: isBinary });
    });
  },
  "/echo/": (socket) => {
    socket.on("message", (data, isBinary) => socket.send(data, { binary: isBinary }));
  },
};

const server = new WebSocketServer({ host: "127.0.0.1", port: 0, backlog: 4096 }, () => {
  console.log(`listening on ${server.address().port}`);
});
server.on("connection", (socket, request) => {
  socket.isAlive = true;
  socket.on("pong", () => { socket.isAlive = true; });
  socket.on("error", () => {});
  views[request.url](socket);
});
setInterval(() => {
  for (const socket of server.clients) {
    if (!socket.isAlive) {
      socket.terminate();
      continue;
    }
    socket.isAlive = false;
    socket.ping();
  }
}, PING_INTERVAL);
