"""A TCP server that sends back whatever it gets.

    python examples/echo_server.py                   # serve on port 7777 until Ctrl-C
    python examples/echo_server.py --demo            # serve, be its own client, and end

What to expect: try the first with `nc 127.0.0.1 7777`. The second starts the server on a free
port, sends ten messages over each of twenty connections at once, checks every echo and prints how
many there were.
"""

from __future__ import annotations

import argparse

import freerun
from freerun.net import TcpListener, TcpStream

CONNECTIONS = 20
MESSAGES = 10


async def echo(stream: TcpStream) -> None:
    """Serve one client until it hangs up."""
    async with stream:
        try:
            while data := await stream.read(65536):
                await stream.write_all(data)
        except OSError as error:
            print(f"a client went away: {error}")


async def serve(listener: TcpListener) -> None:
    """Accept for ever; every connection is a task of its own."""
    async for stream, _ in listener:
        freerun.spawn(echo, stream)


async def serve_until_interrupted(port: int) -> None:
    """The server by itself."""
    async with TcpListener.bind(("127.0.0.1", port)) as listener:
        host, port = listener.local_addr[:2]
        print(f"listening on {host}:{port}; Ctrl-C stops it", flush=True)
        await serve(listener)


async def talk(address: tuple[str, int], name: int) -> int:
    """One client; returns how many echoes were right."""
    async with TcpStream.connect(address) as stream:
        for number in range(MESSAGES):
            message = f"client {name}, message {number}\n".encode()
            await stream.write_all(message)
            received = b""
            while len(received) < len(message):
                data = await stream.read(4096)
                if not data:
                    raise ConnectionError("the server hung up")
                received += data
            assert received == message, received
    return MESSAGES


async def demo() -> None:
    """Server and clients in one runtime."""
    async with TcpListener.bind(("127.0.0.1", 0)) as listener:
        server = freerun.spawn(serve, listener)
        address = listener.local_addr[:2]
        clients = [freerun.spawn(talk, address, name) for name in range(CONNECTIONS)]
        echoes = 0
        for client in clients:
            echoes += await client
        server.abort()
    print(f"{echoes} echoes over {CONNECTIONS} connections, all of them right")


def main() -> None:
    """Run the server, or the demonstration."""
    parser = argparse.ArgumentParser(description="Echo over TCP.")
    parser.add_argument("--port", type=int, default=7777, help="0: any free one")
    parser.add_argument("--demo", action="store_true", help="test itself and end")
    options = parser.parse_args()
    try:
        if options.demo:
            freerun.run(demo)
        else:
            freerun.run(serve_until_interrupted, options.port)
    except KeyboardInterrupt:
        print("stopped")
    except OSError as error:
        raise SystemExit(f"echo_server: {error}") from None


if __name__ == "__main__":
    main()
