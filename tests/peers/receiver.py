"""A WebSocket server on Python's `websockets` that appends every record to a file before it reads on.

usage: receiver.py PORT FILE [reply]      prints "listening PORT"; with `reply` answers each message
"""

import asyncio
import os
import sys

from websockets.asyncio.server import serve
from websockets.exceptions import ConnectionClosed


async def main(port, path, reply):
    out = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    async def handle(connection):
        try:
            async for message in connection:
                data = message.encode() if isinstance(message, str) else message
                os.write(out, data + b"\n")
                if reply:
                    await connection.send("ok")
        except ConnectionClosed:
            pass

    async with serve(handle, "127.0.0.1", port, max_size=1 << 24) as server:
        print("listening", server.sockets[0].getsockname()[1], flush=True)
        await server.serve_forever()


asyncio.run(main(int(sys.argv[1]), sys.argv[2], "reply" in sys.argv[3:]))
