"""A tunnel into TLS: what comes on a plain port goes to another one under TLS, byte for byte, both ways.

usage: tunnel.py ADDRESS CERTIFICATE      prints "listening PORT"; the certificate is the one to trust
"""

import asyncio
import ssl
import sys


async def pipe(reader, writer):
    try:
        while piece := await reader.read(1 << 16):
            writer.write(piece)
            await writer.drain()
        if writer.can_write_eof():
            writer.write_eof()
    except OSError:
        writer.close()


async def main(address, certificate):
    host, port = address.rsplit(":", 1)
    trusted = ssl.create_default_context(cafile=certificate)

    async def handle(reader, writer):
        try:
            from_server, to_server = await asyncio.open_connection(host, port, ssl=trusted)
        except OSError:
            return writer.close()
        there = asyncio.create_task(pipe(reader, to_server))
        await pipe(from_server, writer)
        # Who is told the end leaves.
        await there
        to_server.close()
        writer.close()

    async with await asyncio.start_server(handle, "127.0.0.1", 0) as server:
        print("listening", server.sockets[0].getsockname()[1], flush=True)
        await server.serve_forever()


asyncio.run(main(*sys.argv[1:]))
