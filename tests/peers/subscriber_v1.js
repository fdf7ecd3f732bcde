// A subscriber that speaks `wirefall.v1` on Node's `ws`: prints each record as a line, comes back at its
// place after every break, and tells what it is told.
//
// usage: subscriber_v1.js URL [FROM]
//
// To standard error: `hello RESUMED LOST` at each connection, `gap LOST`, and `closed CODE REASON`. Ends at
// 1000 and at what says that it is no use to come again.
"use strict";
const fs = require("node:fs");
const WebSocket = require("ws");

const FOR_GOOD = [1000, 4400, 4401, 4403, 4409];
const [url, start = "latest"] = process.argv.slice(2);
let place = { from: start };

function connect() {
  const connection = new WebSocket(url, "wirefall.v1");
  let data = null;
  let silenceMs = 10000;
  let timer = null;
  const alive = () => {
    clearTimeout(timer);
    timer = setTimeout(() => connection.terminate(), silenceMs);
  };
  connection.on("open", () => {
    connection.send(JSON.stringify({ type: "subscribe", ...place }));
    alive();
  });
  connection.on("message", (frame, isBinary) => {
    alive();
    if (data !== null && isBinary === (data === "binary")) {
      fs.writeSync(1, frame + "\n");
      place.since = (place.since ?? 0) + 1;
      return;
    }
    const message = JSON.parse(frame);
    if (message.type === "hello") {
      data = message.data;
      silenceMs = 2 * message.heartbeat_ms;
      console.error("hello", message.resumed, message.lost);
      place = { from: message.from };
    } else if (message.type === "mark") {
      place = { from: message.position };
    } else if (message.type === "gap") {
      console.error("gap", message.lost);
      place = { from: message.from };
    }
  });
  connection.on("error", () => {});
  connection.on("close", (code, reason) => {
    clearTimeout(timer);
    if (code !== 1006) console.error("closed", code, String(reason));
    if (!FOR_GOOD.includes(code)) setTimeout(connect, 50);
  });
}

connect();
