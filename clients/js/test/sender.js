// A sender of wirefall.v1 for the tests: a stream in memory, and what it says to one receiver.
// Owns the arithmetic of places, as docs/protocol.md has it. Never opens a socket: a session is given
// `send` and `close`, so it stands behind a real WebSocket and behind a simulated one.

export class Stream {
  constructor({ epoch = "e1", data = "text" } = {}) {
    Object.assign(this, { epoch, data, heartbeatMs: 15_000, tail: 0, head: 0, records: new Map(), cursors: new Map() });
  }

  publish(...values) {
    for (const value of values) this.records.set(this.head++, value);
  }

  /** Keeps the newest `count` only. */
  trim(count) {
    while (this.head - this.tail > count) this.records.delete(this.tail++);
  }

  /** As a process that kept nothing comes up again. */
  restart(epoch) {
    Object.assign(this, { epoch, tail: 0, head: 0, records: new Map(), cursors: new Map() });
  }

  position(at) {
    return `${this.epoch}.${at}`;
  }

  /** Where a subscriber starts, and what it is told. */
  locate({ from, since = 0, name }) {
    const exact = at => ({ at, resumed: true, lost: 0 });
    if (from === undefined) return exact(this.cursors.get(name) ?? this.head);
    if (from === "latest") return exact(this.head);
    if (from === "earliest") return exact(this.tail);
    if (/^-\d+$/.test(from)) return exact(Math.max(this.tail, this.head + Number(from)));
    const [epoch, number] = from.split(".");
    const at = Number(number) + since;
    if (epoch !== this.epoch || !(at <= this.head)) return { at: this.tail, resumed: false, lost: null };
    return at < this.tail ? { at: this.tail, resumed: false, lost: this.tail - at } : exact(at);
  }
}

export class Session {
  /** `send(text or Buffer)` sends a frame, `close(code, reason)` the Close. */
  constructor(stream, { send, close }) {
    Object.assign(this, { stream, send, close, at: null, acked: null, heard: [] });
  }

  hear(text) {
    const message = JSON.parse(text);
    this.heard.push(message);
    if (message.type === "subscribe") this.greet(message);
    else if (message.type === "ack") this.take(message);
    else this.close(4400, `a receiver says no ${message.type}`);
  }

  greet(subscribe) {
    if (this.at !== null) return this.close(4400, "subscribe came twice");
    const { stream } = this;
    const { at, resumed, lost } = stream.locate(subscribe);
    Object.assign(this, { at, name: subscribe.name });
    this.control({
      type: "hello", stream: "test", epoch: stream.epoch, head: stream.position(stream.head),
      from: stream.position(at), resumed, lost, data: stream.data, heartbeat_ms: stream.heartbeatMs,
    });
  }

  take({ position, since }) {
    const [epoch, number] = position.split(".");
    const at = Number(number) + since;
    if (epoch !== this.stream.epoch || at > this.at) return this.close(4400, "an ack beyond what was sent");
    this.acked = Math.max(this.acked ?? 0, at);
    if (this.name) this.stream.cursors.set(this.name, this.acked);
  }

  control(message) {
    const text = JSON.stringify(message);
    this.send(this.stream.data === "text" ? Buffer.from(text) : text);
  }

  /** Sends up to `count` records; false where what comes next is gone. */
  push(count = Infinity) {
    const { stream } = this;
    for (; count > 0 && this.at < stream.head; count -= 1) {
      if (this.at < stream.tail) return false;
      const record = String(stream.records.get(this.at++));
      this.send(stream.data === "text" ? record : Buffer.from(record));
    }
    return true;
  }

  mark() {
    this.control({ type: "mark", position: this.stream.position(this.at) });
  }

  /** `on_lag: skip`: goes to the oldest that is kept. */
  skip() {
    const lost = this.stream.tail - this.at;
    this.at = this.stream.tail;
    this.control({ type: "gap", from: this.stream.position(this.at), lost });
  }

  heartbeat() {
    this.control({ type: "heartbeat", head: this.stream.position(this.stream.head) });
  }

  bye(reason, code, more = {}) {
    this.control({ type: "bye", reason, ...more });
    this.close(code, reason);
  }
}
