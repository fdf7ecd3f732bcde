// What the client decides, on simulated sockets and a simulated clock.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { mock, test } from "node:test";

import { Wirefall } from "../wirefall.js";
import { Stream } from "./sender.js";
import { settle, simulated } from "./sockets.js";

const URL = "ws://127.0.0.1/v1/streams/test";

/** A client of a stream, with all that it told. */
async function start(t, options = {}, stream = new Stream()) {
  t.mock.timers.enable({ apis: ["setTimeout", "setInterval", "Date"] });
  const WebSocket = simulated(stream);
  const told = { records: [], gaps: [], states: [], errors: [] };
  const client = new Wirefall(URL, {
    WebSocket,
    onrecord: ({ data }) => { told.records.push(data); },
    ongap: ({ lost }) => { told.gaps.push(lost); },
    onstate: event => { told.states.push(event.state); },
    onerror: error => { told.errors.push(error); },
    ...options,
  });
  t.after(() => client.close());
  await settle();
  const tick = async ms => { t.mock.timers.tick(ms); await settle(); };
  return { client, stream, WebSocket, told, tick };
}

/** Full jitter with the dice that show `value`. */
const dice = (t, value) => { t.mock.method(Math, "random", () => value); };

/** The messages that are kept for peers in every language. */
function golden(file) {
  const path = new globalThis.URL(`../../../tests/fixtures/protocol/${file}`, import.meta.url);
  return readFileSync(path, "utf8").trim().split("\n");
}

/** A client whose socket says nothing by itself, and what it is told and says, byte for byte. */
async function wired(t, options) {
  t.mock.timers.reset();
  const { client, WebSocket, told } = await start(t, options);
  const socket = WebSocket.newest;
  const said = [];
  socket.send = text => { said.push(text); };
  socket.onopen();
  return { client, socket, said, told };
}

test("every golden message of a sender is understood", async t => {
  const notices = golden("wirefall.v1-notices.ndjson");
  for (const notice of notices) {
    const { client, socket, told } = await wired(t);
    const { type, data, resumed, lost, position } = JSON.parse(notice);
    if (type !== "hello") socket.deliver(Buffer.from(notices[0]));
    socket.deliver(data === "binary" ? notice : Buffer.from(notice));
    await settle();
    assert.deepEqual(told.errors, [], notice);
    assert.deepEqual(told.gaps, type === "gap" || resumed === false ? [lost] : [], notice);
    if (type === "mark") assert.deepEqual(client.place, { position, since: 0 });
    client.close();
  }
});

test("what a receiver says is written as the golden messages are", async t => {
  for (const request of golden("wirefall.v1-requests.ndjson")) {
    const { type, from, since, position, ...options } = JSON.parse(request);
    if (type === "ack") options.name = "n"; // without one nobody asks for acks
    else if (since) options.place = { position: from, since };
    else if (from) options.from = from;
    const { client, socket, said } = await wired(t, options);
    if (type === "ack") {
      const [hello] = golden("wirefall.v1-notices.ndjson");
      socket.deliver(Buffer.from(hello));
      socket.deliver(Buffer.from(JSON.stringify({ type: "mark", position })));
      for (let n = 0; n < since; n += 1) socket.deliver("a record");
      await settle();
      client.close();
    }
    assert.equal(said.at(-1), request);
    client.close();
  }
});

test("records come in order, and the place is behind what was handled", async t => {
  const { client, stream, WebSocket, told } = await start(t);
  const session = WebSocket.newest.open();
  assert.deepEqual(session.heard, [{ type: "subscribe" }]);
  stream.publish("a", "b", "c");
  session.push(2);
  await settle();
  assert.deepEqual(told.records, ["a", "b"]);
  assert.deepEqual(client.place, { position: "e1.0", since: 2 });
  session.mark();
  session.push();
  await settle();
  assert.deepEqual(client.place, { position: "e1.2", since: 1 });
  assert.deepEqual(told.states, ["connecting", "open"]);
});

test("a record that looks like a control message is a record", async t => {
  const { stream, WebSocket, told } = await start(t);
  const session = WebSocket.newest.open();
  stream.publish('{"type":"bye","reason":"end"}');
  session.push();
  await settle();
  assert.deepEqual(told.records, ['{"type":"bye","reason":"end"}']);
});

test("a binary stream gives bytes, and its control messages are text", async t => {
  const { client, stream, WebSocket, told } = await start(t, {}, new Stream({ data: "binary" }));
  const session = WebSocket.newest.open();
  stream.publish("ü");
  session.push();
  session.mark();
  await settle();
  assert.deepEqual(told.records, [new Uint8Array([0xc3, 0xbc])]);
  assert.deepEqual(client.place, { position: "e1.1", since: 0 });
});

test("where to begin: a place before a word, and what else is asked for", async t => {
  const options = { place: { position: "e1.1", since: 1 }, from: "earliest", keys: ["k"], name: "n" };
  const stream = new Stream();
  stream.publish("a", "b", "c");
  const { WebSocket } = await start(t, options, stream);
  const session = WebSocket.newest.open();
  assert.deepEqual(session.heard[0], { type: "subscribe", from: "e1.1", since: 1, name: "n", keys: ["k"] });
});

test("after a break it goes on behind the last frame that came", async t => {
  dice(t, 0.5);
  const { stream, WebSocket, told, tick } = await start(t, { from: "earliest" });
  stream.publish("a", "b", "c", "d");
  let session = WebSocket.newest.open();
  session.push(2);
  session.mark();
  session.push(1);
  WebSocket.newest.end(1006);
  await tick(50);
  session = WebSocket.newest.open();
  assert.deepEqual(session.heard[0], { type: "subscribe", from: "e1.2", since: 1 });
  session.push();
  await settle();
  assert.deepEqual(told.records, ["a", "b", "c", "d"]);
  assert.deepEqual(told.gaps, []);
  assert.deepEqual(told.states, ["connecting", "open", "waiting", "connecting", "open"]);
});

test("waits grow to 30 seconds with full jitter, and start anew once the sender has spoken", async t => {
  dice(t, 0.999);
  const { WebSocket, tick } = await start(t);
  for (const mostMs of [100, 200, 400, 800, 1600, 3200, 6400, 12_800, 25_600, 30_000, 30_000]) {
    const before = WebSocket.made.length;
    WebSocket.newest.end(1006);
    await tick(Math.floor(mostMs * 0.999) - 1);
    assert.equal(WebSocket.made.length, before, `not before ${mostMs}`);
    await tick(2);
    assert.equal(WebSocket.made.length, before + 1, `after ${mostMs}`);
  }
  WebSocket.newest.open();
  const before = WebSocket.made.length;
  WebSocket.newest.end(1006);
  await tick(100);
  assert.equal(WebSocket.made.length, before + 1);
});

test("the sender's word on when to come again is kept", async t => {
  dice(t, 0);
  const { WebSocket, tick } = await start(t);
  WebSocket.newest.open().bye("restart", 1012, { retry_after_ms: 5000 });
  await tick(4999);
  assert.equal(WebSocket.made.length, 1);
  await tick(1);
  assert.equal(WebSocket.made.length, 2);
  WebSocket.newest.open();
  WebSocket.newest.end(4429, "too many sessions");
  await tick(999);
  assert.equal(WebSocket.made.length, 2, "too much is not answered at once");
  await tick(1);
  assert.equal(WebSocket.made.length, 3);
});

test("a sender that restarts is looked for twice a second, for half a minute", async t => {
  dice(t, 0.999);
  const { WebSocket, tick } = await start(t);
  WebSocket.newest.open().bye("restart", 1012, { retry_after_ms: 300 });
  await tick(400);
  for (let spentMs = 400; spentMs < 29_000; spentMs += 500) {
    const before = WebSocket.made.length;
    WebSocket.newest.end(1006);
    await tick(500);
    assert.equal(WebSocket.made.length, before + 1, `after ${spentMs}`);
  }
  await tick(2000);
  WebSocket.newest.end(1006);
  const before = WebSocket.made.length;
  await tick(5000);
  assert.equal(WebSocket.made.length, before, "then as after any break");
});

test("silence for two heartbeats is a dead connection", async t => {
  dice(t, 0);
  const { WebSocket, told, tick } = await start(t);
  const session = WebSocket.newest.open();
  for (let beat = 0; beat < 4; beat += 1) {
    await tick(15_000);
    session.heartbeat();
  }
  await tick(30_000);
  assert.equal(WebSocket.made.length, 1, "it lives");
  await tick(7_500);
  assert.deepEqual(WebSocket.made[0].closedWith, { code: 1000, by: "client" });
  assert.match(told.errors[0].message, /nothing was heard for 3\d s/);
  await tick(1);
  assert.equal(WebSocket.made.length, 2);
  assert.equal(WebSocket.newest.open().heard[0].from, "e1.0");
});

test("a dial that is answered by nobody is given up", async t => {
  dice(t, 0);
  const { WebSocket, tick } = await start(t);
  await tick(25_000);
  assert.equal(WebSocket.made[0].closedWith.by, "client");
  await tick(1);
  assert.equal(WebSocket.made.length, 2);
});

/** A browser's window and document, as far as the client looks at them. */
function pretendToBeATab(t) {
  const target = new EventTarget();
  globalThis.document = target;
  globalThis.addEventListener = target.addEventListener.bind(target);
  t.after(() => { delete globalThis.document; delete globalThis.addEventListener; });
  return name => target.dispatchEvent(new Event(name));
}

test("a tab that slept notices at its first look that the connection is old", async t => {
  dice(t, 0);
  const see = pretendToBeATab(t);
  const { WebSocket, tick } = await start(t);
  WebSocket.newest.open();
  see("visibilitychange");
  assert.equal(WebSocket.made.length, 1, "a live connection stays");
  t.mock.timers.setTime(Date.now() + 3_600_000);
  see("visibilitychange");
  await tick(0);
  assert.equal(WebSocket.made.length, 2);
});

test("another network, or a look at the tab, ends a wait", async t => {
  dice(t, 0.999);
  const see = pretendToBeATab(t);
  const { client, WebSocket } = await start(t);
  for (let tries = 0; tries < 9; tries += 1) {
    WebSocket.newest.end(1006);
    assert.equal(client.state, "waiting");
    see(tries % 2 ? "online" : "visibilitychange");
    assert.equal(client.state, "connecting");
  }
  WebSocket.newest.open();
  see("online");
  assert.equal(client.state, "connecting", "the old network's connection is not waited for");
  client.close();
  const made = WebSocket.made.length;
  see("online");
  assert.equal(WebSocket.made.length, made);
});

test("each dial has a ticket of its own, as a subprotocol", async t => {
  dice(t, 0);
  let tickets = 0;
  const { WebSocket, tick } = await start(t, { ticket: async () => `t${++tickets}` });
  assert.deepEqual(WebSocket.newest.protocols, ["wirefall.v1", "wirefall.ticket.t1"]);
  assert.equal(WebSocket.newest.url, URL);
  WebSocket.newest.end(1006);
  await tick(1);
  assert.deepEqual(WebSocket.newest.protocols, ["wirefall.v1", "wirefall.ticket.t2"]);
});

test("a ticket that cannot be had is asked for again", async t => {
  dice(t, 0);
  let asked = 0;
  const ticket = async () => { if (++asked < 3) throw new Error("401 from the ticket office"); return "t"; };
  const { WebSocket, told, tick } = await start(t, { ticket });
  await tick(1);
  await tick(1);
  assert.equal(told.errors[0].message, "no ticket: 401 from the ticket office");
  assert.equal(WebSocket.made.length, 1);
});

test("an error page in place of a ticket is no ticket, and it is asked for again", async t => {
  dice(t, 0);
  let asked = 0;
  const ticket = async () => ++asked < 3 ? "<h1>502 Bad Gateway</h1>" : "t";
  const { client, WebSocket, told, tick } = await start(t, { ticket });
  assert.equal(client.state, "waiting");
  assert.doesNotMatch(told.errors[0].message, /502/);
  await tick(1);
  await tick(1);
  assert.deepEqual(WebSocket.newest.protocols, ["wirefall.v1", "wirefall.ticket.t"]);
});

test("a wrong secret fails at once, a wrong ticket after three", async t => {
  const { client, WebSocket, told, tick } = await start(t, { secret: "s3cret" });
  assert.deepEqual(WebSocket.newest.protocols, ["wirefall.v1", "wirefall.secret.s3cret"]);
  WebSocket.newest.end(4401);
  assert.equal(client.state, "failed");
  assert.equal(client.error.code, 4401);
  assert.match(told.errors[0].message, /credential is wrong/);
  await tick(3_600_000);
  assert.equal(WebSocket.made.length, 1);
});

test("a ticket that is refused is fetched anew, three times in a row", async t => {
  const { client, WebSocket, tick } = await start(t, { ticket: () => "t" });
  for (let refused = 1; refused < 3; refused += 1) {
    WebSocket.newest.end(4401, "used up");
    assert.equal(client.state, "waiting");
    await tick(30_000);
  }
  WebSocket.newest.end(4401, "used up");
  assert.equal(client.state, "failed");
  assert.equal(client.error.message, "used up");
});

test("i7: a credential that no subprotocol can carry is not shown", async t => {
  const { client, WebSocket } = await start(t, { secret: "my secret" });
  assert.equal(client.state, "failed");
  assert.equal(WebSocket.made.length, 0);
  assert.doesNotMatch(client.error.message, /my secret/);
});

test("closes that say no end it, others do not", async t => {
  for (const [code, state] of [
    [1000, "ended"], [1002, "failed"], [1007, "failed"], [1009, "failed"], [4400, "failed"], [4403, "failed"],
    [4409, "failed"], [1001, "waiting"], [1006, "waiting"], [1011, "waiting"], [1012, "waiting"], [4008, "waiting"],
    [4408, "waiting"], [4429, "waiting"],
  ]) {
    await t.test(`${code}: ${state}`, async t => {
      const { client, WebSocket, told } = await start(t);
      WebSocket.newest.open();
      WebSocket.newest.end(code);
      await settle();
      assert.equal(client.state, state);
      assert.equal(told.errors.length, state === "ended" ? 0 : 1);
    });
  }
});

test("what does not speak the protocol is told", async t => {
  for (const frame of ['{"type":"mark","position":"x"}', "null", "no JSON", Buffer.from([0xff])]) {
    await t.test(String(frame), async t => {
      const { client, WebSocket } = await start(t);
      WebSocket.newest.onopen = () => {};
      WebSocket.newest.open();
      WebSocket.newest.deliver(frame);
      assert.equal(client.state, "failed");
      assert.match(client.error.message, /does not speak wirefall\.v1/);
    });
  }
});

test("what a later version says is ignored", async t => {
  const { client, WebSocket } = await start(t);
  const session = WebSocket.newest.open();
  session.control({ type: "weather", sunny: true });
  session.control({ type: "heartbeat", head: "e1.9", more: [] });
  assert.equal(client.state, "open");
  assert.equal(client.head, "e1.9");
});

test("what is lost is told, in order with the records", async t => {
  const told = [];
  const { stream, WebSocket, tick } = await start(t, {
    from: "earliest",
    onrecord: ({ data }) => { told.push(data); },
    ongap: async ({ lost, place }) => { await settle(); told.push([lost, place.position]); },
  });
  stream.publish("a", "b", "c", "d");
  let session = WebSocket.newest.open();
  session.push(1);
  stream.trim(2);
  session.skip();
  session.push(1);
  WebSocket.newest.end(1006);
  await tick(100);
  stream.publish("e", "f");
  stream.trim(1);
  session = WebSocket.newest.open();
  session.push();
  WebSocket.newest.end(1006);
  await tick(100);
  stream.restart("e2");
  session = WebSocket.newest.open();
  stream.publish("g");
  session.push();
  await tick(0);
  await tick(0);
  assert.deepEqual(told, ["a", [1, "e1.2"], "c", [2, "e1.5"], "f", [null, "e2.0"], "g"]);
});

test("a gap that nobody asks for is warned of", async t => {
  const warned = t.mock.method(console, "warn", () => {});
  const { WebSocket } = await start(t, { ongap: undefined, place: { position: "other.7", since: 0 } });
  WebSocket.newest.open();
  await settle();
  assert.match(warned.mock.calls[0].arguments[0], /an unknown number of records were lost/);
});

test("a named subscriber acknowledges what its handler has finished, and no more", async t => {
  const pending = [];
  const onrecord = () => new Promise(done => { pending.push(done); });
  const { stream, WebSocket } = await start(t, { name: "n", onrecord });
  const session = WebSocket.newest.open();
  stream.publish("a", "b");
  session.push();
  session.mark();
  await settle();
  assert.equal(session.acked, 0, "the start");
  assert.equal(pending.length, 1, "one at a time");
  pending[0]();
  await settle();
  assert.equal(session.acked, 0);
  pending[1]();
  await settle();
  assert.equal(session.acked, 2);
  assert.equal(stream.cursors.get("n"), 2);
});

test("a slow handler acknowledges between two marks too, and at the end", async t => {
  const { client, stream, WebSocket, tick } = await start(t, { name: "n" });
  const session = WebSocket.newest.open();
  stream.publish("a", "b", "c");
  await settle();
  await tick(1000);
  session.push(1);
  await settle();
  assert.equal(session.acked, 1);
  session.push(2);
  await settle();
  assert.equal(session.acked, 1);
  client.close();
  assert.equal(session.acked, 3);
});

test("what a handler throws fails the client, with the place before the record", async t => {
  const onrecord = async ({ data }) => { if (data === "b") throw new Error("cannot keep b"); };
  const { client, stream, WebSocket, told } = await start(t, { name: "n", onrecord });
  const session = WebSocket.newest.open();
  stream.publish("a", "b", "c");
  session.push();
  session.mark();
  await settle();
  assert.equal(client.state, "failed");
  assert.equal(told.errors[0].message, "cannot keep b");
  assert.deepEqual(client.place, { position: "e1.0", since: 1 });
  assert.equal(session.acked, 0);
});

test("what the other callbacks throw changes nothing", async t => {
  const thrown = [];
  t.mock.method(globalThis, "queueMicrotask", task => {
    Promise.resolve().then(task).catch(error => thrown.push(error.message));
  });
  const onstate = ({ state }) => { throw new Error(state); };
  const { client, WebSocket, tick } = await start(t, { onstate, onerror: () => { throw new Error("error"); } });
  WebSocket.newest.open();
  WebSocket.newest.end(1006);
  await tick(100);
  WebSocket.newest.open();
  assert.equal(client.state, "open");
  assert.deepEqual(thrown, ["connecting", "open", "error", "waiting", "connecting"]);
});

test("a loop reads one after the other, and the place follows it", async t => {
  const { client, stream, WebSocket } = await start(t, { onrecord: undefined });
  const session = WebSocket.newest.open();
  stream.publish("a", "b");
  session.push();
  session.bye("end", 1000);
  const seen = [];
  for await (const { data, place } of client) seen.push([data, client.place?.since, place.since]);
  assert.deepEqual(seen, [["a", 0, 1], ["b", 1, 2]]);
  assert.equal(client.state, "ended");
  assert.equal(client.place.since, 2);
});

test("leaving the loop closes, and the record in hand is not handled", async t => {
  const { client, stream, WebSocket } = await start(t, { onrecord: undefined });
  const session = WebSocket.newest.open();
  stream.publish("a", "b");
  session.push();
  for await (const { data } of client) if (data === "b") break;
  assert.equal(client.state, "closed");
  assert.equal(client.place.since, 1);
  assert.deepEqual(WebSocket.newest.closedWith, { code: 1000, by: "client" });
});

test("a loop that waits ends with close(), and throws where the client fails", async t => {
  const first = await start(t, { onrecord: undefined });
  const reading = (async () => { for await (const _ of first.client); return "over"; })();
  await settle();
  first.client.close();
  assert.equal(await reading, "over");
  t.mock.timers.reset();
  const second = await start(t, { onrecord: undefined });
  const failing = (async () => { for await (const _ of second.client); })();
  second.WebSocket.newest.end(4403);
  await assert.rejects(failing, { code: 4403 });
});

test("there is one reader", async t => {
  const { client } = await start(t);
  await assert.rejects(client[Symbol.asyncIterator]().next(), /has one reader/);
  assert.equal(client.state, "connecting", "the first goes on");
});

test("a reader that is too slow costs the connection and no record, in frames and in bytes", async t => {
  for (const bound of [{ queue: 4 }, { queueBytes: 8 }]) {
    await t.test(JSON.stringify(bound), async t => {
      const { client, stream, WebSocket, told } = await start(t, { onrecord: undefined, from: "earliest", ...bound });
      stream.publish("0a", "1a", "2a", "3a", "4a", "5a", "6a", "7a");
      WebSocket.newest.open().push();
      assert.equal(client.state, "held");
      assert.equal(WebSocket.newest.closedWith.by, "client");
      const seen = [];
      for await (const { data } of client) {
        seen.push(data);
        if (seen.length === 8) break;
        await settle();
        if (!WebSocket.newest.isOpen) WebSocket.newest.open().push();
      }
      assert.deepEqual(seen.map(text => text[0]).join(""), "01234567");
      assert.ok(WebSocket.made.length > 1);
      assert.deepEqual(told.gaps, []);
      assert.deepEqual(told.errors, []);
    });
  }
});

test("nothing is done or said after close()", async t => {
  const { client, stream, WebSocket, told, tick } = await start(t);
  const session = WebSocket.newest.open();
  client.close();
  client.close();
  stream.publish("a");
  WebSocket.newest.closedWith = null;
  session.push();
  await tick(60_000);
  assert.deepEqual(told.records, []);
  assert.deepEqual(told.states, ["connecting", "open", "closed"]);
  assert.equal(WebSocket.made.length, 1);
});

test("an address is a WebSocket's, or a page's", () => {
  const WebSocket = simulated(new Stream());
  assert.throws(() => new Wirefall("/v1/streams/x", { WebSocket }), TypeError);
  assert.throws(() => new Wirefall("ws://localhost", { WebSocket: null }), /no WebSocket here/);
  const hidden = mock.method(globalThis, "queueMicrotask", task => { task(); });
  new Wirefall("https://h/v1/streams/x", { WebSocket }).close();
  hidden.mock.restore();
  assert.equal(WebSocket.newest.url, "wss://h/v1/streams/x");
});
