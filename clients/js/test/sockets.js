// Simulated WebSockets: nothing happens but what a test does, and the clock is the test's.

import { Session } from "./sender.js";

/** A class to be given as `WebSocket`, whose `made` lists every socket, the newest last. */
export function simulated(stream) {
  return class Socket {
    static made = [];
    static get newest() { return Socket.made.at(-1); }

    constructor(url, protocols) {
      Object.assign(this, { url, protocols, isOpen: false, closedWith: null, said: [] });
      this.session = new Session(stream, {
        send: frame => this.deliver(frame),
        close: (code, reason) => this.end(code, reason),
      });
      Socket.made.push(this);
    }

    /** The upgrade is done: the client subscribes, the stream answers. */
    open() {
      this.isOpen = true;
      this.onopen();
      return this.session;
    }

    deliver(frame) {
      if (this.closedWith) return;
      this.onmessage({ data: typeof frame === "string" ? frame : Uint8Array.from(frame).buffer });
    }

    end(code, reason = "") {
      if (this.closedWith) return;
      this.closedWith = { code };
      this.onclose({ code, reason });
    }

    send(text) {
      this.said.push(JSON.parse(text));
      this.session.hear(text);
    }

    close(code) {
      this.closedWith ??= { code, by: "client" };
    }
  };
}

/** Lets everything run that is due. */
export const settle = () => new Promise(done => { setImmediate(done); });
