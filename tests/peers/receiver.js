// A WebSocket server on Node's `ws` that appends every record to a file before it reads on.
//
// usage: receiver.js PORT FILE [WORD]...      prints "listening PORT"; the words are those of
// receiver.py
"use strict";
const fs = require("node:fs");
const { WebSocketServer } = require("ws");

const [port, path, ...words] = process.argv.slice(2);
const out = fs.openSync(path, "a");
const say = words.filter(word => word.startsWith("say=")).map(word => word.slice(4).split(","));
const server = new WebSocketServer({ host: "127.0.0.1", port: Number(port) });
server.on("listening", () => console.log("listening", server.address().port));
server.on("connection", connection => {
  let handled = 0;
  connection.on("error", () => {});
  connection.on("message", data => {
    fs.writeSync(out, data + "\n");
    handled += 1;
    for (const [every, size] of say) {
      if (handled % every === 0) connection.send("x".repeat(size));
    }
    if (words.includes("reply")) connection.send("ok");
    if (words.includes("id")) {
      connection.send('{"note": "written"}');
      connection.send(JSON.stringify({ ack: JSON.parse(data).n }));
    }
  });
});
