"""A WebSocket server on Python's `websockets` that appends every record to a file before it reads on.

usage: receiver.py PORT FILE [WORD]...      prints "listening PORT". Words:
  reply             answers each message once it is written
  id                answers with the record's number, {"ack": N}, and says other things in between
  say=EVERY,BYTES   says something of so many bytes after every so many messages of a connection
"""

import asyncio
import json
import os
import sys

from websockets.asyncio.server import serve
from websockets.exceptions import ConnectionClosed


async def main(port, path, words):
    out = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    say = [word.removeprefix("say=").split(",") for word in words if word.startswith("say=")]

    async def handle(connection):
        handled = 0
        try:
            async for message in connection:
                data = message.encode() if isinstance(message, str) else message
                os.write(out, data + b"\n")
                handled += 1
                for every, size in say:
                    if handled % int(every) == 0:
                        await connection.send("x" * int(size))
                if "reply" in words:
                    await connection.send("ok")
                if "id" in words:
                    await connection.send('{"note": "written"}')
                    await connection.send(json.dumps({"ack": json.loads(data)["n"]}))
        except ConnectionClosed:
            pass

    async with serve(handle, "127.0.0.1", port, max_size=1 << 24) as server:
        print("listening", server.sockets[0].getsockname()[1], flush=True)
        await server.serve_forever()


asyncio.run(main(int(sys.argv[1]), sys.argv[2], sys.argv[3:]))
