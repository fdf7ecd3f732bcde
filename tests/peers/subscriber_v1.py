"""A subscriber that speaks `wirefall.v1` on Python's `websockets`: prints each record as a line, comes
back at its place after every break, and tells what it is told.

usage: subscriber_v1.py URL [FROM]

To standard error: `hello RESUMED LOST` at each connection, `gap LOST`, and `closed CODE REASON`. Ends at
1000 and at what says that it is no use to come again.
"""

import asyncio
import json
import sys

from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake

FOR_GOOD = (1000, 4400, 4401, 4403, 4409)


def tell(*words):
    print(*words, file=sys.stderr, flush=True)


async def session(url, place):
    """One connection; `place` is moved in step with what is printed. Returns the code it ended with."""
    async with connect(url, max_size=1 << 24, proxy=None, subprotocols=["wirefall.v1"]) as connection:
        await connection.send(json.dumps({"type": "subscribe", **place}))
        data = None
        silence = 10
        try:
            while True:
                frame = await asyncio.wait_for(connection.recv(), silence)
                if data is not None and isinstance(frame, str) == (data == "text"):
                    print(frame if isinstance(frame, str) else frame.decode(), flush=True)
                    place["since"] = place.get("since", 0) + 1
                    continue
                message = json.loads(frame)
                kind = message["type"]
                if kind == "hello":
                    data = message["data"]
                    silence = 2 * message["heartbeat_ms"] / 1000
                    tell("hello", json.dumps(message["resumed"]), json.dumps(message["lost"]))
                    place.clear()
                    place["from"] = message["from"]
                elif kind == "mark":
                    place.clear()
                    place["from"] = message["position"]
                elif kind == "gap":
                    tell("gap", json.dumps(message["lost"]))
                    place.clear()
                    place["from"] = message["from"]
        except TimeoutError:
            return None
        except ConnectionClosed:
            tell("closed", connection.close_code, connection.close_reason)
            return connection.close_code


async def main(url, start):
    place = {"from": start}
    while True:
        code = None
        try:
            code = await session(url, place)
        except (OSError, InvalidHandshake):
            pass
        if code in FOR_GOOD:
            return
        await asyncio.sleep(0.05)


asyncio.run(main(sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else "latest"))
