// A subscriber on Node's `ws`: prints each record as a line, then how the stream was closed.
//
// usage: subscriber.js URL
"use strict";
const fs = require("node:fs");
const WebSocket = require("ws");

const connection = new WebSocket(process.argv[2]);
connection.on("open", () => console.error("connected"));
connection.on("message", data => fs.writeSync(1, data + "\n"));
connection.on("close", (code, reason) => console.error("closed", code, String(reason)));
