"""Connections for the tests of `freerun.net`."""

from __future__ import annotations

import contextlib
import os
import socket
import struct
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

from support import open_fds

import freerun
from freerun.net import TcpListener, TcpStream

LOCAL = "127.0.0.1:0"


async def connected() -> tuple[TcpStream, TcpStream]:
    """Both ends of a TCP connection."""
    async with TcpListener.bind(LOCAL) as listener:
        ours = await TcpStream.connect(listener.local_addr)
        theirs, _ = await listener.accept()
        return ours, theirs


@asynccontextmanager
async def pair() -> AsyncIterator[tuple[TcpStream, TcpStream]]:
    """Both ends of a TCP connection, closed at the end."""
    ours, theirs = await connected()
    async with ours, theirs:
        yield ours, theirs


async def read_to_end(stream: Any, n: int = 65536) -> bytes:
    parts = bytearray()
    while part := await stream.read(n):
        parts += part
    return bytes(parts)


async def echo(stream: TcpStream) -> None:
    """Send back what comes, until the peer ends it."""
    async with stream:
        while data := await stream.read():
            await stream.write_all(data)


async def serve_echo(listener: TcpListener) -> None:
    async for stream, _ in listener:
        freerun.spawn(echo, stream)


def reset(stream: TcpStream) -> None:
    """Close so that the peer sees a reset."""
    with socket.socket(fileno=os.dup(stream.fileno())) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    stream.close()


def shrink_buffers(*streams: TcpStream) -> None:
    """Let the kernel keep little, so that writers wait soon. Smaller ones would meet TCP's own timers."""
    for stream in streams:
        with socket.socket(fileno=os.dup(stream.fileno())) as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 16)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 17)


async def fill(stream: TcpStream) -> int:
    """Write until a write would have to wait; how many bytes that took.

    On a busy machine the kernel delivers a little later what it has taken, and then there is room again: so twice.
    """
    total, before = 0, -1
    chunk = bytes(1 << 16)
    with socket.socket(fileno=os.dup(stream.fileno())) as sock:
        sock.setblocking(False)
        while total != before:
            before = total
            with contextlib.suppress(BlockingIOError):
                while True:
                    total += sock.send(chunk)
            await freerun.time.sleep(0.005)
    return total


async def until_readable(stream: TcpStream) -> None:
    """Wait as one does who makes the system calls oneself: look, and wait again while there is nothing."""
    with socket.socket(fileno=os.dup(stream.fileno())) as sock:
        while True:
            await stream.readable()
            try:
                sock.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
            except BlockingIOError:
                stream.clear_readable()
            else:
                return


async def until_writable(stream: TcpStream) -> None:
    """Wait until it takes another byte."""
    with socket.socket(fileno=os.dup(stream.fileno())) as sock:
        while True:
            await stream.writable()
            try:
                sock.send(b"w", socket.MSG_DONTWAIT)
            except BlockingIOError:
                stream.clear_writable()
            else:
                return


@contextmanager
def unanswering() -> Iterator[tuple[str, int]]:
    """An address of this machine that lets nobody in, and refuses nobody: its queue is full."""
    waiting = []
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        addr = listener.getsockname()
        try:
            while True:
                sock = socket.socket()
                waiting.append(sock)
                sock.settimeout(0.2)
                try:
                    sock.connect(addr)
                except TimeoutError:
                    break
            yield addr
        finally:
            for sock in waiting:
                sock.close()


def open_sockets() -> set[str]:
    """This process's sockets. Runtimes have descriptors of other kinds, which come and go by themselves."""
    return {what for what in open_fds().values() if what.startswith("socket:")}


def has_ipv6() -> bool:
    """Whether this machine lets one listen at ::1."""
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_STREAM) as sock:
            sock.bind(("::1", 0))
    except OSError:
        return False
    return True
