# SPDX-FileCopyrightText: 2026 The fastsocket.fleet authors
# SPDX-License-Identifier: GPL-2.0-or-later
"""witness_asyncio.py ADDRESS PORT: an asyncio server; /self asks itself, /child runs a program, /end ends it."""
import asyncio
import sys

ADDRESS, PORT = sys.argv[1], int(sys.argv[2])


async def ask():
    reader, writer = await asyncio.open_connection(ADDRESS, PORT)
    writer.write(b"GET / HTTP/1.0\r\n\r\n")
    answer = await reader.read()
    writer.close()
    return answer.split(b"\r\n\r\n")[1]


async def main():
    end = asyncio.Event()

    async def serve(reader, writer):
        path = (await reader.readuntil(b"\r\n\r\n")).split()[1]
        text = b"asyncio\n"
        if path == b"/self":
            text = b"".join(await asyncio.gather(*[ask() for _ in range(20)]))
        elif path == b"/child":
            child = await asyncio.create_subprocess_exec("echo", "child", stdout=asyncio.subprocess.PIPE)
            text = (await child.communicate())[0]
        writer.write(b"HTTP/1.0 200 OK\r\nContent-Length: %d\r\n\r\n" % len(text) + text)
        await writer.drain()
        writer.close()
        if path == b"/end":
            end.set()

    async with await asyncio.start_server(serve, ADDRESS, PORT):
        await end.wait()


asyncio.run(main())
sys.exit(7)
