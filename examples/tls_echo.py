"""A TLS server that sends back whatever it gets.

    python examples/tls_echo.py CERTIFICATE.pem [KEY.pem]   # serve on port 7443 until Ctrl-C
    python examples/tls_echo.py --demo                      # serve, be its own client, and end

What to expect: try the first with `openssl s_client -connect 127.0.0.1:7443`. The second starts the
server on a free port with a certificate for tests, sends ten messages over each of ten connections at
once, while an eleventh client says nothing at all and keeps nobody waiting, and prints how many
echoes were right, and over which protocol.
"""

from __future__ import annotations

import argparse
import ssl

import freerun
from freerun.net import TcpStream, TlsListener, TlsStream
from freerun.testing import localhost_tls

CONNECTIONS = 10
MESSAGES = 10


async def echo(stream: TlsStream) -> None:
    """Serve one client until it hangs up."""
    async with stream:
        try:
            while data := await stream.read():
                await stream.write_all(data)
        except OSError as error:
            print(f"a client went away: {error}")


async def serve(listener: TlsListener) -> None:
    """Accept for ever; every connection is a task of its own, and so is every handshake."""
    async for stream, _ in listener:
        freerun.spawn(echo, stream)


async def serve_until_interrupted(port: int, context: ssl.SSLContext) -> None:
    """The server by itself."""
    async with TlsListener.bind(("127.0.0.1", port), context) as listener:
        host, port = listener.local_addr[:2]
        print(f"listening on {host}:{port}; Ctrl-C stops it", flush=True)
        await serve(listener)


async def talk(port: int, context: ssl.SSLContext, name: int) -> str:
    """One client; returns the protocol and the cipher, once all echoes were right."""
    async with TlsStream.connect(("localhost", port), context, timeout=30) as stream:
        for number in range(MESSAGES):
            message = f"client {name}, message {number}\n".encode()
            await stream.write_all(message)
            received = await stream.read_exact(len(message))
            assert received == message, received
        return f"{stream.version()} ({stream.cipher()[0]})"


async def demo() -> None:
    """Server and clients in one runtime."""
    server_context, client_context = localhost_tls()
    async with TlsListener.bind("127.0.0.1:0", server_context) as listener:
        server = freerun.spawn(serve, listener)
        port = listener.local_addr[1]
        async with TcpStream.connect(listener.local_addr):  # silent
            clients = [freerun.spawn(talk, port, client_context, name) for name in range(CONNECTIONS)]
            protocols = {await client for client in clients}
        server.abort()
    print(f"{CONNECTIONS * MESSAGES} echoes over {CONNECTIONS} connections, all of them right: {protocols.pop()}")


def main() -> None:
    """Run the server, or the demonstration."""
    parser = argparse.ArgumentParser(description="Echo over TLS.")
    parser.add_argument("certificate", nargs="?", help="a PEM file")
    parser.add_argument("key", nargs="?", help="a PEM file, if the key is not in the first one")
    parser.add_argument("--port", type=int, default=7443, help="0: any free one")
    parser.add_argument("--demo", action="store_true", help="test itself and end")
    options = parser.parse_args()
    try:
        if options.demo:
            freerun.run(demo)
        elif options.certificate is None:
            parser.error("a certificate, or --demo")
        else:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(options.certificate, options.key)
            freerun.run(serve_until_interrupted, options.port, context)
    except KeyboardInterrupt:
        print("stopped")
    except OSError as error:
        raise SystemExit(f"tls_echo: {error}") from None


if __name__ == "__main__":
    main()
