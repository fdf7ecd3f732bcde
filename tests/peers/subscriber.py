"""A subscriber on Python's `websockets`: prints each record as a line, then how the stream was closed.

usage: subscriber.py URL
"""

import asyncio
import sys

from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed


async def main(url):
    async with connect(url, max_size=1 << 24, proxy=None) as connection:
        print("connected", file=sys.stderr, flush=True)
        try:
            while True:
                print(await connection.recv(), flush=True)
        except ConnectionClosed:
            print("closed", connection.close_code, connection.close_reason, file=sys.stderr)


asyncio.run(main(sys.argv[1]))
