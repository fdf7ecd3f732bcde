/**
 * A place in a stream: the last position that the sender gave, and how many frames came since. Plain
 * data, to be kept as JSON. A position means something to its sender only.
 */
export interface Place {
  readonly position: string;
  readonly since: number;
}

/** What one data frame carried. */
export interface WirefallRecord {
  /**
   * The frame: one record, or several where the pipeline's `framing` says so. Text of a text stream,
   * bytes of a binary one.
   */
  readonly data: string | Uint8Array;
  /** The place behind it. Kept together with what you made of it, each record counts exactly once. */
  readonly place: Place;
}

/** Records that are missing between what came before and what comes next. */
export interface Gap {
  /** How many; `null` where nobody can know. */
  readonly lost: number | null;
  readonly place: Place;
}

/**
 * - `connecting`: dialling, or fetching a ticket.
 * - `open`: `hello` has come; records follow as they are published.
 * - `waiting`: the connection broke; it is tried again in `waitMs`.
 * - `held`: the queue is full, so the connection was given up; it comes back at its place once the
 *   reader has caught up to half of it.
 * - `ended`: the stream is at its end, and all of it has come.
 * - `failed`: trying again is no use; `error` says why.
 * - `closed`: `close()` was called, or the loop was left.
 */
export type State = "connecting" | "open" | "waiting" | "held" | "ended" | "failed" | "closed";

export interface StateEvent {
  readonly state: State;
  /** Why, of `waiting` and `failed`. */
  readonly error?: WirefallError;
  /** Milliseconds until the next try, of `waiting`. */
  readonly waitMs?: number;
}

/** Never contains a credential. */
export interface WirefallError extends Error {
  /** The code of the Close, where there was one: 4401 is a wrong credential. */
  readonly code?: number;
}

/** A credential, or what fetches one before each dial. */
export type Credential = string | (() => string | Promise<string>);

export interface Options {
  /**
   * Where to begin: a position, `earliest`, `latest`, or `-N` for the newest N records. Without it, and
   * without `place`: where the sender's cursor of `name` stands, else `latest`. After a break the
   * client always goes on at its place.
   */
  from?: string;
  /** A place that was kept: where to begin, before `from`. */
  place?: Place | null;
  /** A cursor that the sender keeps: what was handled is acknowledged, and not sent again. */
  name?: string;
  /** Only records with one of these keys, each in a frame of its own. 1,000 at most. */
  keys?: string[];
  /**
   * A one-time ticket (`POST …/tickets`, made with the secret, best by your own server). Give a function:
   * each dial needs a new one. Where it fails, or gives what can be none, it is asked again after a wait;
   * where three in a row are refused (4401), the client has failed.
   */
  ticket?: Credential;
  /** The secret itself, for services. A page that has it shows it to whoever looks. */
  secret?: Credential;
  /**
   * Called with each record, in order, the next only after the last has returned and its promise is
   * fulfilled. What it throws fails the client; the place then is before that record.
   */
  onrecord?: (record: WirefallRecord) => unknown;
  /** Called in order with the records. Without it, gaps are warned of on the console. */
  ongap?: (gap: Gap) => unknown;
  onstate?: (event: StateEvent) => void;
  /** Each failure, those that are tried again too: `client.state` says which it is. */
  onerror?: (error: WirefallError) => void;
  /** Most frames that wait for the reader (10,000). */
  queue?: number;
  /** Most characters or bytes that wait for the reader (16 Mi). */
  queueBytes?: number;
  /** The WebSocket to use: before Node 22 that of the package `ws`. */
  WebSocket?: new (url: string, protocols: string[]) => any;
}

/**
 * A subscription to one stream. It dials at once, and again after each break, until it is closed, the
 * stream ends, or trying again is no use.
 *
 * ```js
 * const client = new Wirefall("wss://example.com/v1/streams/flights", { from: "earliest" });
 * for await (const { data, place } of client) console.log(JSON.parse(data));
 * ```
 *
 * A loop takes a record as handled when it asks for the next one. Leaving the loop closes the
 * subscription, and the record in hand stays unhandled. The loop ends with the stream, and throws
 * where the subscription has failed. There is one reader: `onrecord`, or one loop.
 */
export class Wirefall implements AsyncIterable<WirefallRecord> {
  /** @param url `ws:`, `wss:`, `http:` or `https:`, or in a page a path. Never a credential in it. */
  constructor(url: string | URL, options?: Options);
  readonly state: State;
  /** Why it has failed. */
  readonly error: WirefallError | null;
  /** Behind the last record that was handled: what to keep, and to give as `place`. */
  readonly place: Place | null;
  /** The sender's greeting of this connection or the last: `stream`, `epoch`, `head`, … */
  readonly hello: Readonly<Record<string, unknown>> | null;
  /** Where the stream ended when the sender last said so. */
  readonly head: string | null;
  /** Acknowledges what was handled, and ends. What waits in the queue is not handed out any more. */
  close(): void;
  [Symbol.asyncIterator](): AsyncGenerator<WirefallRecord, void, void>;
}
