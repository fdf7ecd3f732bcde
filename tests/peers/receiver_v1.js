// A receiver of a push that speaks `wirefall.v1`, on Node's `ws`: appends each record to a file and keeps its
// place beside it, both durable before it acknowledges.
//
// usage: receiver_v1.js PORT FILE      prints "listening PORT"
//
// To standard error: `hello RESUMED LOST` at each connection, `bye REASON`, and `closed CODE REASON`.
"use strict";
const fs = require("node:fs");
const { WebSocketServer } = require("ws");

const [port, path] = process.argv.slice(2);
const out = fs.openSync(path, fs.constants.O_RDWR | fs.constants.O_CREAT | fs.constants.O_APPEND);
const keptPath = path + ".mine";
let kept = { place: null, bytes: 0 };
if (fs.existsSync(keptPath)) kept = JSON.parse(fs.readFileSync(keptPath));

// Everything that was written is safe, and is all up to the place.
function keep(place) {
  fs.fsyncSync(out);
  kept = { place: { ...place }, bytes: fs.fstatSync(out).size };
  const file = fs.openSync(keptPath + ".new", "w");
  fs.writeSync(file, JSON.stringify(kept));
  fs.fsyncSync(file);
  fs.closeSync(file);
  fs.renameSync(keptPath + ".new", keptPath);
}

// The connection that writes: the one before it is what is left of a sender that has lost it.
let holder = null;

const server = new WebSocketServer({
  host: "127.0.0.1",
  port: Number(port),
  handleProtocols: offered => offered.has("wirefall.v1") && "wirefall.v1",
});
server.on("listening", () => console.log("listening", server.address().port));
server.on("connection", connection => {
  if (holder !== null) holder.terminate();
  holder = connection;
  fs.ftruncateSync(out, kept.bytes);
  const subscribe = { type: "subscribe" };
  if (kept.place !== null) {
    subscribe.from = kept.place.position;
    subscribe.since = kept.place.since;
  }
  connection.send(JSON.stringify(subscribe));
  let data = null;
  let place = null;
  connection.on("error", () => {});
  connection.on("close", (code, reason) => console.error("closed", code, String(reason)));
  connection.on("message", (frame, isBinary) => {
    if (holder !== connection) return;
    if (data !== null && isBinary === (data === "binary")) {
      fs.writeSync(out, frame + "\n");
      place.since += 1;
      return;
    }
    const message = JSON.parse(frame);
    if (message.type === "hello") {
      data = message.data;
      console.error("hello", message.resumed, message.lost);
      place = { position: message.from, since: 0 };
    } else if (message.type === "mark") {
      place = { position: message.position, since: 0 };
      keep(place);
      connection.send(JSON.stringify({ type: "ack", ...place }));
    } else if (message.type === "bye") {
      console.error("bye", message.reason);
    }
  });
});
