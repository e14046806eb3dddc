"""A WebSocket server and a client, by the library websockets.

serve PORT             echoes every message; "close" makes the server close with the code 4001
talk URL CA            opens a WebSocket and checks that messages of many sizes come back
refused URL CA         prints the status of the handshake's response
idle URL CA COUNT      opens COUNT WebSockets, prints "open", and waits for the end of standard input

The client logs in with the user and password in the environment variable LOGIN, if it is set.
"""

import asyncio
import base64
import os
import ssl
import sys

from websockets.asyncio.client import connect
from websockets.asyncio.server import serve
from websockets.exceptions import ConnectionClosed, InvalidStatus

LIMIT = 64 << 20


async def echo(websocket):
    try:
        async for message in websocket:
            if message == "close":
                await websocket.close(4001, "as the client asked")
                return
            await websocket.send(message)
    except ConnectionClosed:
        pass


async def serve_forever(port):
    async with serve(echo, "127.0.0.1", port, max_size=LIMIT, ping_interval=None) as server:
        await server.serve_forever()


def client(url, ca, **options):
    context = ssl.create_default_context(cafile=ca)
    headers = {}
    if "LOGIN" in os.environ:
        login = base64.b64encode(os.environ["LOGIN"].encode()).decode()
        headers["Authorization"] = "Basic " + login
    return connect(
        url, ssl=context, additional_headers=headers, max_size=LIMIT, proxy=None, **options
    )


async def talk(url, ca):
    for compression in ["deflate", None]:
        async with client(url, ca, compression=compression) as websocket:
            for size in [0, 1, 125, 126, 65535, 65536, 1 << 20, 20 << 20]:
                message = os.urandom(size)
                await websocket.send(message)
                assert await websocket.recv() == message, size
            await websocket.send("gr\u00fc\u00dfe")
            assert await websocket.recv() == "gr\u00fc\u00dfe"
            await (await websocket.ping())
            await websocket.send("close")
            try:
                await websocket.recv()
                raise AssertionError("no close")
            except ConnectionClosed as closed:
                assert closed.rcvd.code == 4001, closed
    print("done")


async def refused(url, ca):
    try:
        async with client(url, ca):
            print("opened")
    except InvalidStatus as error:
        print(error.response.status_code)


async def idle(url, ca, count):
    websockets = []
    for _ in range(count):
        websockets.append(await client(url, ca, compression=None, ping_interval=None))
    print("open", flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)


def main():
    command, *arguments = sys.argv[1:]
    if command == "serve":
        asyncio.run(serve_forever(int(arguments[0])))
    elif command == "talk":
        asyncio.run(talk(*arguments))
    elif command == "refused":
        asyncio.run(refused(*arguments))
    elif command == "idle":
        asyncio.run(idle(arguments[0], arguments[1], int(arguments[2])))


main()
