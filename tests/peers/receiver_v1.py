"""A receiver of a push that speaks `wirefall.v1`, on Python's `websockets`: appends each record to a file
and keeps its place beside it, both durable before it acknowledges.

usage: receiver_v1.py PORT FILE [WORD]...      prints "listening PORT". Words, how it misbehaves:
  mute         never says `subscribe`
  beyond       acknowledges more than it was sent, and keeps no place
  backwards    acknowledges its first place again and again, beside what is right
  foreign      subscribes with a place of a stream that nobody knows
  named        asks for a cursor with a name
  latest       asks for what comes from now on

To standard error: `hello RESUMED LOST` at each connection, `bye REASON`, and `closed CODE REASON`.
"""

import asyncio
import json
import os
import sys

from websockets.asyncio.server import serve
from websockets.exceptions import ConnectionClosed


def tell(*words):
    print(*words, file=sys.stderr, flush=True)


class Book:
    """The file, cut off at the place that is kept beside it. The newest connection writes: the one before it
    is what is left of a sender that has lost it."""

    def __init__(self, path):
        self.path = path + ".mine"
        self.place, self.bytes_kept, self.holder = None, 0, None
        if os.path.exists(self.path):
            with open(self.path) as kept:
                self.place, self.bytes_kept = json.load(kept)
        self.out = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def begin(self, holder):
        self.holder = holder
        os.ftruncate(self.out, self.bytes_kept)

    def keep(self, place):
        os.fsync(self.out)
        new = self.path + ".new"
        self.bytes_kept = os.fstat(self.out).st_size
        with open(new, "w") as kept:
            json.dump([place, self.bytes_kept], kept)
            kept.flush()
            os.fsync(kept.fileno())
        os.replace(new, self.path)
        self.place = dict(place)


async def main(port, path, words):
    book = Book(path)

    async def handle(connection):
        book.begin(connection)
        if "mute" not in words:
            subscribe = {"type": "subscribe"}
            if book.place is not None:
                subscribe |= {"from": book.place["position"], "since": book.place["since"]}
            if "foreign" in words:
                subscribe = {"type": "subscribe", "from": "someone.else"}
            if "named" in words:
                subscribe["name"] = "me"
            if "latest" in words:
                subscribe = {"type": "subscribe", "from": "latest"}
            await connection.send(json.dumps(subscribe))
        data, place, first = None, None, None
        try:
            while True:
                frame = await connection.recv()
                if book.holder is not connection:
                    return
                if data is not None and isinstance(frame, str) == (data == "text"):
                    record = frame.encode() if isinstance(frame, str) else frame
                    os.write(book.out, record + b"\n")
                    place["since"] += 1
                    continue
                message = json.loads(frame)
                kind = message["type"]
                if kind == "hello":
                    data = message["data"]
                    tell("hello", json.dumps(message["resumed"]), json.dumps(message["lost"]))
                    place = {"position": message["from"], "since": 0}
                    first = first or dict(place)
                elif kind == "mark":
                    place = {"position": message["position"], "since": 0}
                    if "beyond" not in words:
                        book.keep(place)
                    if "backwards" in words:
                        await connection.send(json.dumps({"type": "ack", **first}))
                    since = 1_000_000 if "beyond" in words else 0
                    await connection.send(json.dumps({"type": "ack", **place, "since": since}))
                    if "backwards" in words:
                        await connection.send(json.dumps({"type": "ack", **first}))
                elif kind == "bye":
                    tell("bye", message["reason"])
        except ConnectionClosed:
            tell("closed", connection.close_code, connection.close_reason)

    serving = serve(
        handle, "127.0.0.1", port, max_size=1 << 24, subprotocols=["wirefall.v1"]
    )
    async with serving as server:
        print("listening", server.sockets[0].getsockname()[1], flush=True)
        await server.serve_forever()


asyncio.run(main(int(sys.argv[1]), sys.argv[2], sys.argv[3:]))
