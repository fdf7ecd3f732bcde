// The client on real WebSockets: those of the package `ws`, which `cargo xtask peers` gets.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { createServer } from "node:http";
import { createRequire } from "node:module";
import { test } from "node:test";
import { gzipSync } from "node:zlib";

import { Wirefall } from "../wirefall.js";
import { Session, Stream } from "./sender.js";

/** By `require`, because that one looks into NODE_PATH. */
const ws = (() => {
  try {
    return createRequire(import.meta.url)("ws");
  } catch {
    return null;
  }
})();
const skip = ws ? false : "the package `ws` is not here";
const PATIENCE_MS = 20_000;
const GZIPPED_BYTES_MAX = 5000;

/** A server of a stream that pushes what is published at once; `admit` may close instead. */
async function serve(stream, { port = 0, admit = () => true } = {}) {
  const http = createServer((_, answer) => { answer.writeHead(404).end(); });
  const server = new ws.WebSocketServer({ server: http, handleProtocols: asked => asked.has("wirefall.v1") && "wirefall.v1" });
  const sessions = new Set();
  server.on("connection", (socket, request) => {
    if (!admit(socket, request)) return;
    const session = new Session(stream, {
      send: frame => socket.send(frame),
      close: (code, reason) => socket.close(code, reason),
    });
    sessions.add(session);
    socket.on("message", text => {
      session.hear(text);
      session.push();
      session.mark();
    });
    socket.on("close", () => sessions.delete(session));
  });
  await new Promise(done => { http.listen(port, "127.0.0.1", done); });
  return {
    port: http.address().port,
    url: `ws://127.0.0.1:${http.address().port}/v1/streams/test`,
    publish(...values) {
      stream.publish(...values);
      for (const session of sessions) { session.push(); session.mark(); }
    },
    each(does) { sessions.forEach(does); },
    async stop() {
      for (const socket of server.clients) socket.terminate();
      await new Promise(done => { http.close(done); });
    },
  };
}

/** A client, and `until(state)`: the next event of that state, or of now. */
function subscribe(url, options) {
  let wanted, found;
  const onstate = event => { if (event.state === wanted) found(event); };
  const client = new Wirefall(url, { WebSocket: ws.WebSocket, ...options, onstate });
  const until = state => new Promise((done, late) => {
    if (client.state === state) return done({ state });
    const timer = setTimeout(() => late(new Error(`not within ${PATIENCE_MS} ms: ${state}`)), PATIENCE_MS);
    wanted = state;
    found = event => { clearTimeout(timer); done(event); };
  });
  return { client, until };
}

for (const data of ["text", "binary"]) {
  test(`a ${data} stream arrives, and ends the loop`, { skip }, async () => {
    const stream = new Stream({ data });
    const server = await serve(stream);
    stream.publish("a", "ü", "c");
    const { client, until } = subscribe(server.url, { from: "-2" });
    await until("open");
    server.each(session => session.bye("end", 1000));
    const seen = [];
    for await (const { data } of client) seen.push(Buffer.from(data).toString());
    assert.deepEqual(seen, ["ü", "c"]);
    await server.stop();
  });
}

test("the server is killed and comes back: it goes on at its place", { skip }, async () => {
  const stream = new Stream();
  let server = await serve(stream);
  const seen = [];
  const gaps = [];
  const { until } = subscribe(server.url, {
    from: "earliest",
    onrecord: ({ data }) => { seen.push(Number(data)); },
    ongap: gap => { gaps.push(gap); },
  });
  let next = 0;
  for (let round = 0; round < 4; round += 1) {
    await until("open");
    server.publish(next++, next++);
    const { port } = server;
    const broke = until("waiting");
    await server.stop();
    assert.match((await broke).error.message, /broke|ECONNREFUSED/);
    stream.publish(next++);
    server = await serve(stream, { port });
  }
  await until("open");
  const ended = until("ended");
  server.each(session => session.bye("end", 1000));
  await ended;
  assert.deepEqual(seen, Array.from({ length: next }, (_, number) => number));
  assert.deepEqual(gaps, []);
  await server.stop();
});

test("i7: a ticket goes in the subprotocol and nowhere else, and a wrong one is told", { skip }, async () => {
  const asked = [];
  const server = await serve(new Stream(), {
    admit(socket, request) {
      asked.push([request.url, request.headers["sec-websocket-protocol"]]);
      socket.close(4401, "the ticket has expired");
      return false;
    },
  });
  const { until } = subscribe(server.url, { ticket: async () => "abc_-1" });
  const { error } = await until("failed");
  assert.deepEqual([error.code, error.message], [4401, "the ticket has expired"]);
  assert.deepEqual(asked, Array(3).fill(["/v1/streams/test", "wirefall.v1,wirefall.ticket.abc_-1"]));
  await server.stop();
});

test("a place that is taken to another client counts each record once", { skip }, async () => {
  const stream = new Stream();
  const server = await serve(stream);
  stream.publish(0, 1, 2, 3, 4, 5);
  const seen = [];
  let place = null;
  for (let page = 0; page < 3; page += 1) {
    const { client } = subscribe(server.url, { from: "earliest", place });
    for await (const record of client) {
      seen.push(Number(record.data));
      place = JSON.parse(JSON.stringify(record.place));
      if (seen.length % 2 === 0) break;
    }
  }
  assert.deepEqual(seen, [0, 1, 2, 3, 4, 5]);
  await server.stop();
});

test("a named subscriber needs to remember nothing", { skip }, async () => {
  const stream = new Stream();
  const server = await serve(stream);
  stream.publish(0, 1, 2);
  stream.cursors.set("dashboard", 0);
  const read = async count => {
    const seen = [];
    const { client } = subscribe(server.url, {
      name: "dashboard",
      onrecord: ({ data }) => { seen.push(Number(data)); },
    });
    const deadline = Date.now() + PATIENCE_MS;
    while (stream.cursors.get("dashboard") < count) {
      assert.ok(Date.now() < deadline, "acknowledged in time");
      await new Promise(setImmediate);
    }
    client.close();
    return seen;
  };
  assert.deepEqual(await read(3), [0, 1, 2]);
  server.publish(3);
  assert.deepEqual(await read(4), [3]);
  await server.stop();
});

test("it is small, as it is served", () => {
  const source = readFileSync(new URL("../wirefall.js", import.meta.url));
  const bytes = gzipSync(source).length;
  assert.ok(bytes < GZIPPED_BYTES_MAX, `${bytes} bytes gzipped`);
});
