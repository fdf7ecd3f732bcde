// Everything that can go wrong, at random by seed: breaks at any frame, stalled readers, trimmed and
// forgotten streams, pages that are reloaded. Whatever happens, each record is handled once and in
// order, or is told to be lost.

import assert from "node:assert/strict";
import { test } from "node:test";

import { Wirefall } from "../wirefall.js";
import { Stream } from "./sender.js";
import { settle, simulated } from "./sockets.js";

const SEEDS = Number(process.env.SEEDS ?? 150);
const STEPS = 120;

/** Mulberry32: numbers from 0 to below 1, the same for the same seed. */
function random(seed) {
  return () => {
    seed = (seed + 0x6d2b79f5) | 0;
    let mixed = Math.imul(seed ^ (seed >>> 15), 1 | seed);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}

/** An application that keeps its place with what it handled, and survives its client. */
class Application {
  constructor(WebSocket, { name, isSlow }) {
    Object.assign(this, { WebSocket, name, isSlow, place: null, next: null, handled: 0, pending: null, errors: [] });
  }

  open() {
    // Without a place it begins at whatever is the earliest by then.
    if (!this.place) this.next = null;
    this.client = new Wirefall("ws://h/", {
      WebSocket: this.WebSocket,
      name: this.name,
      from: "earliest",
      place: this.place,
      queue: 7,
      onrecord: ({ data, place }) => {
        const value = Number(typeof data === "string" ? data : new TextDecoder().decode(data));
        if (!this.isSlow()) return this.handle(value, place);
        return new Promise(done => { this.pending = () => { this.handle(value, place); done(); }; });
      },
      ongap: ({ lost, place }) => {
        this.next = lost === null ? null : this.next === null ? null : this.next + lost;
        this.place = place;
      },
      onerror: error => { this.errors.push(error); },
    });
  }

  handle(value, place) {
    this.pending = null;
    if (this.next === null) assert.ok(value >= this.handled, `${value} came again`);
    else assert.equal(value, this.next, "neither missing nor again");
    this.next = this.handled = value + 1;
    this.place = place;
  }

  reload() {
    this.client.close();
    this.pending = null;
    this.open();
  }
}

async function simulate(t, seed) {
  const roll = random(seed);
  const below = count => Math.floor(roll() * count);
  t.mock.timers.enable({ apis: ["setTimeout", "setInterval", "Date"] });
  t.mock.method(Math, "random", roll);
  const stream = new Stream({ data: roll() < 0.5 ? "text" : "binary" });
  const WebSocket = simulated(stream);
  const slowness = roll();
  const isNamed = roll() < 0.5;
  const application = new Application(WebSocket, { name: isNamed ? "n" : undefined, isSlow: () => roll() < slowness });
  let published = 0;
  const live = () => {
    const socket = WebSocket.newest;
    if (!socket || socket.closedWith) return null;
    return socket;
  };
  const mark = session => { if (roll() < 0.7) session.mark(); };
  const steps = [
    () => { for (let n = below(6); n > 0; n -= 1) stream.publish(published++); },
    () => { const socket = live(); if (socket && !socket.isOpen) socket.open(); },
    () => {
      const socket = live();
      if (!socket?.isOpen) return;
      if (!socket.session.push(below(5))) socket.session.skip();
      if (!socket.closedWith) mark(socket.session);
      const { acked, at } = socket.session;
      assert.ok(acked === null || acked <= at);
    },
    () => application.pending?.(),
    () => application.pending?.(),
    () => t.mock.timers.tick(below(2000)),
    () => { if (roll() < 0.3) live()?.end([1006, 1012, 4008, 4429, 1001][below(5)]); },
    () => { if (roll() < 0.2) stream.trim(below(10)); },
    () => { if (roll() < 0.1) t.mock.timers.tick(100_000); },
    () => { if (roll() < 0.15) application.reload(); },
    () => {
      if (roll() > 0.05) return;
      live()?.end(1006);
      stream.restart(`e${seed}-${published}`);
    },
  ];
  application.open();
  for (let step = 0; step < STEPS; step += 1) {
    steps[below(steps.length)]();
    await settle();
  }
  // At last everybody is well: it ends, with all.
  for (let patience = 0; application.client.state !== "ended" && patience < 2000; patience += 1) {
    application.pending?.();
    const socket = live();
    if (socket && !socket.isOpen) socket.open();
    else if (socket && stream.head === socket.session.at) socket.session.bye("end", 1000);
    else if (socket && !socket.session.push(1)) socket.session.skip();
    else if (!socket) t.mock.timers.tick(31_000);
    await settle();
  }
  for (; application.pending; await settle()) application.pending();
  assert.equal(application.client.state, "ended", `${application.client.error}`);
  assert.ok(application.next === null || application.next === published, `${application.next} of ${published}`);
  return { handled: application.handled, connections: WebSocket.made.length };
}

test("each record once and in order, or told to be lost", async t => {
  let connections = 0;
  for (let seed = 0; seed < SEEDS; seed += 1) {
    await t.test(`seed ${seed}`, async t => { connections += (await simulate(t, seed)).connections; });
  }
  assert.ok(connections > 3 * SEEDS, "the simulation breaks something");
});
