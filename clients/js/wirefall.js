// Subscribes to a stream of Wirefall: the protocol wirefall.v1 of docs/protocol.md, as a receiver.
// Owns one subscription: its connection, its place, a bounded queue. Never stores anything: the
// application keeps `place`. Called by pages and by Node; types and documentation are in wirefall.d.ts.

const PROTOCOL = "wirefall.v1";
const BACKOFF_MIN_MS = 100;
const BACKOFF_MAX_MS = 30_000;
/** After the sender has said that it restarts, its next process is expected any moment. */
const RESTART_BACKOFF_MAX_MS = 500;
const RESTART_LASTS_MS = 30_000;
const RETRY_AFTER_MAX_MS = 3_600_000;
/** Least wait after 4429: the sender has just said that it is too much. */
const BUSY_MS = 1000;
/** Until `hello` says otherwise; twice as long is also what a dial, its ticket included, may take. */
const HEARTBEAT_MS = 10_000;
/** A handler that is slow between two marks still acknowledges this often. */
const ACK_MS = 1000;
/** Fresh credentials that are tried in a row. */
const CREDENTIALS_MAX = 3;
const QUEUE_FRAMES = 10_000;
const QUEUE_BYTES = 16 * 1024 * 1024;

/** Closes after which coming again is no use; 4401 is, with another credential. */
const FINAL = [1002, 1007, 1009, 4400, 4403, 4409];
const MEANS = {
  1012: "the sender restarts",
  4008: "fell behind what the sender keeps",
  4401: "the credential is wrong, missing, expired or used up",
  4403: "the credential does not allow this",
  4409: "another session took this name",
  4429: "too many sessions, or bytes, of this credential",
};
/** What may stand in a subprotocol (RFC 9110, token). */
const TOKEN = /^[\w!#$%&'*+.^`|~-]+$/;

const failure = (message, code) => Object.assign(new Error(message), { code });

const parsed = (data) => {
  try {
    return JSON.parse(typeof data === "string" ? data : new TextDecoder().decode(data));
  } catch {
    return null;
  }
};

/** Where nobody asks for gaps they are not silent all the same. */
const warn = ({ lost }) => console.warn(`wirefall: ${lost ?? "an unknown number of"} records were lost`);

export class Wirefall {
  #url;
  #options;
  #state = "connecting";
  #error = null;
  #hello = null;
  #head = null;
  /** Where the next dial resumes: behind the last frame that came. */
  #received = null;
  /** Behind the last record that was handled. */
  #place = null;

  #socket = null;
  #kind = null;
  #bye = null;
  #heard = 0;
  #heartbeatMs = HEARTBEAT_MS;
  #watch;
  #timer;
  #attempts = 0;
  #restartsUntil = 0;
  #refusals = 0;

  /** Records, gaps and marks that came and are not handled, in order. */
  #queue = [];
  #queueBytes = 0;
  #wake = null;
  #isRead = false;
  #isOver = false;
  /** The furthest place that was handled and not acknowledged, and the socket it came by. */
  #unacked = null;
  #ackedAt = 0;
  #listening = new AbortController();

  constructor(url, options = {}) {
    const { WebSocket = globalThis.WebSocket, queue = QUEUE_FRAMES, queueBytes = QUEUE_BYTES, ongap = warn } = options;
    if (!WebSocket) throw new Error("there is no WebSocket here: pass one, as { WebSocket } of `ws`");
    this.#options = { ...options, WebSocket, queue, queueBytes, ongap };
    const address = new URL(url, globalThis.location?.href);
    address.protocol = address.protocol.replace("http", "ws");
    this.#url = address.href;
    this.#received = this.#place = options.place ?? null;
    const { signal } = this.#listening;
    globalThis.document?.addEventListener("visibilitychange", () => this.#awake(), { signal });
    globalThis.addEventListener?.("online", () => this.#awake(true), { signal });
    // Later, so that no callback runs before the caller has the client in hand.
    queueMicrotask(() => this.#isOver || this.#dial());
    if (options.onrecord) this.#readInto(options.onrecord);
  }

  get state() { return this.#state; }
  get error() { return this.#error; }
  get place() { return this.#place; }
  get hello() { return this.#hello; }
  get head() { return this.#head; }

  close() {
    if (this.#isOver) return;
    this.#ack();
    this.#queue.length = this.#queueBytes = 0;
    this.#finish("closed");
  }

  async *[Symbol.asyncIterator]() {
    if (this.#isRead) throw new Error("a subscription has one reader: `onrecord`, or one loop");
    this.#isRead = true;
    try {
      for (;;) {
        const item = this.#queue.shift();
        if (item) {
          const { data, gap, place } = item;
          if (gap) await this.#options.ongap({ ...gap, place });
          if (data !== undefined) yield { data, place };
          this.#handled(item);
        } else if (this.#isOver) {
          if (this.#error) throw this.#error;
          return;
        } else {
          await new Promise(wake => { this.#wake = wake; });
        }
      }
    } catch (error) {
      this.#fail(error);
      throw error;
    } finally {
      this.close();
    }
  }

  async #readInto(onrecord) {
    try {
      for await (const record of this) {
        try {
          const pending = onrecord(record);
          if (pending?.then) await pending;
        } catch (error) {
          // Not handled: the place stays before it.
          return this.#fail(error);
        }
      }
    } catch {
      // Whatever ends the loop has been told to `onerror`.
    }
  }

  #handled(item) {
    if (this.#state === "closed") return;
    this.#queueBytes -= item.data?.length ?? 0;
    this.#place = item.place;
    this.#unacked = item;
    if (item.data === undefined || Date.now() - this.#ackedAt >= ACK_MS) this.#ack();
    const { queue, queueBytes } = this.#options;
    if (this.#state === "held" && this.#queue.length <= queue / 2 && this.#queueBytes <= queueBytes / 2) this.#dial();
  }

  /** A place of an earlier connection is left out: the first item of a connection is its start. */
  #ack() {
    const item = this.#unacked;
    if (!this.#options.name || !item || item.socket !== this.#socket) return;
    this.#unacked = null;
    this.#ackedAt = Date.now();
    this.#socket.send(JSON.stringify({ type: "ack", ...item.place }));
  }

  async #dial() {
    const { ticket, secret, WebSocket } = this.#options;
    // Stands for the connection until there is one, so that whatever comes in between ends this dial.
    const dial = this.#socket = {};
    this.#kind = this.#bye = null;
    this.#watchOver(HEARTBEAT_MS);
    this.#tell("connecting");
    const protocols = [PROTOCOL];
    for (const [kind, given] of Object.entries({ ticket, secret })) {
      if (given === undefined) continue;
      let credential;
      try {
        credential = typeof given === "function" ? await given() : given;
      } catch (error) {
        if (this.#socket === dial) this.#broke(failure(`no ${kind}: ${error?.message ?? error}`));
        return;
      }
      if (this.#socket !== dial) return;
      // Told here, without its value: the browser's own message would show it. What was fetched may be a
      // page that says why there is none.
      if (!TOKEN.test(credential)) {
        const error = failure(`the ${kind} has characters that no subprotocol can carry`);
        return typeof given === "function" ? this.#broke(error) : this.#fail(error);
      }
      protocols.push(`wirefall.${kind}.${credential}`);
    }
    let socket;
    try {
      socket = this.#socket = new WebSocket(this.#url, protocols);
    } catch (error) {
      return this.#fail(error);
    }
    socket.binaryType = "arraybuffer";
    let detail;
    const now = (does) => (event) => { if (socket === this.#socket) does(event); };
    socket.onopen = now(() => socket.send(JSON.stringify(this.#subscribe())));
    socket.onmessage = now(({ data }) => this.#hear(data));
    // A Close follows; only outside of browsers does the event say what happened.
    socket.onerror = ({ message }) => { detail = message; };
    socket.onclose = now(({ code, reason }) => this.#closed(code, reason || MEANS[code] || detail));
  }

  #subscribe() {
    const { from, name, keys } = this.#options;
    const at = this.#received;
    return { type: "subscribe", ...(at ? { from: at.position, since: at.since } : { from }), name, keys };
  }

  #hear(data) {
    this.#heard = Date.now();
    const isText = typeof data === "string";
    if (this.#kind === (isText ? "text" : "binary")) {
      const { position, since } = this.#received;
      return this.#come({ position, since: since + 1 }, { data: isText ? data : new Uint8Array(data) });
    }
    const message = parsed(data);
    if (!message || (!this.#kind && message.type !== "hello")) {
      return this.#fail(failure("what answers does not speak wirefall.v1"));
    }
    const { type, position, from, lost, head } = message;
    this.#head = head ?? this.#head;
    if (type === "hello") {
      this.#hello = message;
      this.#kind = message.data;
      this.#attempts = this.#refusals = 0;
      this.#watchOver(message.heartbeat_ms || HEARTBEAT_MS);
      this.#tell("open");
      this.#come({ position: from, since: 0 }, message.resumed ? {} : { gap: { lost } });
    } else if (type === "mark") {
      this.#come({ position, since: 0 }, {});
    } else if (type === "gap") {
      this.#come({ position: from, since: 0 }, { gap: { lost } });
    } else if (type === "bye") {
      this.#bye = message;
      if (message.reason === "restart") this.#restartsUntil = Date.now() + RESTART_LASTS_MS;
    }
  }

  #come(place, what) {
    this.#received = place;
    const queue = this.#queue;
    const isMark = (item) => item && item.data === undefined && !item.gap;
    // Of two marks in a row the later says it all.
    if (isMark(what) && isMark(queue.at(-1))) queue.pop();
    queue.push({ place, socket: this.#socket, ...what });
    this.#queueBytes += what.data?.length ?? 0;
    this.#wake?.();
    if (queue.length >= this.#options.queue || this.#queueBytes >= this.#options.queueBytes) {
      // A script cannot stop a WebSocket from reading; but it can come again later, at its place.
      this.#drop();
      this.#tell("held");
    }
  }

  #closed(code, reason = "the connection broke, or there was none") {
    if (code === 1000 && this.#kind) return this.#finish("ended");
    const { ticket, secret } = this.#options;
    const isFinal = code === 4401
      ? typeof (ticket ?? secret) !== "function" || ++this.#refusals >= CREDENTIALS_MAX
      : FINAL.includes(code);
    const error = failure(reason, code);
    if (isFinal) this.#fail(error);
    else this.#broke(error);
  }

  /** Comes again, after a wait with full jitter. */
  #broke(error) {
    const leastMs = Math.min(this.#bye?.retry_after_ms ?? (error.code === 4429 ? BUSY_MS : 0), RETRY_AFTER_MAX_MS);
    const boundMs = Date.now() < this.#restartsUntil ? RESTART_BACKOFF_MAX_MS : BACKOFF_MAX_MS;
    const mostMs = Math.min(boundMs, BACKOFF_MIN_MS * 2 ** this.#attempts++);
    const waitMs = leastMs + Math.random() * mostMs;
    this.#drop();
    this.#timer = setTimeout(() => this.#dial(), waitMs);
    this.#call(this.#options.onerror, error);
    if (!this.#isOver) this.#tell("waiting", { error, waitMs });
  }

  #fail(error) {
    if (this.#isOver) return;
    this.#error = error;
    this.#finish("failed", { error });
    this.#call(this.#options.onerror, error);
  }

  #finish(state, more) {
    this.#isOver = true;
    this.#listening.abort();
    this.#drop();
    this.#wake?.();
    this.#tell(state, more);
  }

  #drop() {
    clearTimeout(this.#timer);
    clearInterval(this.#watch);
    const socket = this.#socket;
    this.#socket = null;
    socket?.close?.(1000);
  }

  #watchOver(heartbeatMs) {
    clearTimeout(this.#timer);
    clearInterval(this.#watch);
    this.#heartbeatMs = heartbeatMs;
    this.#heard = Date.now();
    this.#watch = setInterval(() => this.#look(), heartbeatMs / 2);
  }

  /** The clock of the wall, for that of the process stands still while a machine sleeps. */
  #look() {
    const silentMs = Date.now() - this.#heard;
    if (silentMs < 0) this.#heard = Date.now();
    if (this.#socket && silentMs > 2 * this.#heartbeatMs) {
      this.#broke(failure(`nothing was heard for ${Math.round(silentMs / 1000)} s`));
    }
  }

  /** The tab is looked at again, or the network is another: what a timer would notice late. */
  #awake(isOtherNetwork) {
    if (isOtherNetwork && this.#socket) this.#broke(failure("the network changed"));
    this.#look();
    if (this.#state === "waiting") this.#dial();
  }

  #tell(state, more) {
    this.#state = state;
    this.#call(this.#options.onstate, { state, ...more });
  }

  /** What a callback throws is its own, and stops nothing here. */
  #call(callback, value) {
    try {
      callback?.(value);
    } catch (error) {
      queueMicrotask(() => { throw error; });
    }
  }
}
