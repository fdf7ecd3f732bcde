// A WebSocket server on Node's `ws` that appends every record to a file before it reads on.
//
// usage: receiver.js PORT FILE [reply]      prints "listening PORT"; with `reply` answers each message
"use strict";
const fs = require("node:fs");
const { WebSocketServer } = require("ws");

const [port, path, reply] = process.argv.slice(2);
const out = fs.openSync(path, "a");
const server = new WebSocketServer({ host: "127.0.0.1", port: Number(port) });
server.on("listening", () => console.log("listening", server.address().port));
server.on("connection", connection => {
  connection.on("error", () => {});
  connection.on("message", data => {
    fs.writeSync(out, data + "\n");
    if (reply) connection.send("ok");
  });
});
