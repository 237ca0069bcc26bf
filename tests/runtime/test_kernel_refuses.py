"""A kernel that refuses io_uring, or the newer epoll: everything works, and it is said why.

The refusal is real: the process forbids itself the system call, with a seccomp filter, as containers do.
"""

from __future__ import annotations

import errno

import pytest
from support import check_script

FORBID = """
import ctypes, errno, logging, os, struct, sys
import freerun
from freerun.net import TcpListener, TcpStream

IO_URING_SETUP, IO_URING_ENTER = 425, 426  # on every architecture

def forbid(call, number):
    # load the number of the system call; if it is `call`, fail with `number`; else let it pass
    program = [(0x20, 0, 0, 0), (0x15, 0, 1, call), (0x06, 0, 0, 0x00050000 | number), (0x06, 0, 0, 0x7FFF0000)]
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *each) for each in program))
    fprog = struct.pack("HxxxxxxP", len(program), ctypes.addressof(code))
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.prctl(38, 1, 0, 0, 0) == 0, os.strerror(ctypes.get_errno())  # PR_SET_NO_NEW_PRIVS
    assert libc.prctl(22, 2, fprog, 0, 0) == 0, os.strerror(ctypes.get_errno())  # PR_SET_SECCOMP

logged = []

class Log(logging.Handler):
    def emit(self, record):
        logged.append(record.getMessage())

logging.getLogger("freerun").addHandler(Log())

async def echo_once():
    async with TcpListener.bind("127.0.0.1:0") as listener:
        async with TcpStream.connect(listener.local_addr) as client:
            server, _ = await listener.accept()
            async with server:
                await client.write_all(b"hello")
                await freerun.time.sleep(0.001)
                return await server.read_exact(5)

def check(builder, why):
    with builder.build() as rt:
        assert rt.block_on(echo_once) == b"hello"
        assert rt.metrics().driver == "epoll"
    [message] = logged
    assert "using epoll" in message and why in message, message
    logged.clear()
"""

AT_ALL = (
    FORBID
    + """
number, call, why = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
forbid(call, number)
info = freerun.build_info()
assert info.drivers == ("epoll",) and info.driver == "epoll", info
assert why in info.driver_why and errno.errorcode[number] in info.driver_why, info.driver_why
assert why in str(info)
for builder in (freerun.Builder.new_current_thread(), freerun.Builder().worker_threads(2)):
    check(builder.driver("io_uring"), why)
with freerun.Builder().driver("auto").build() as rt:
    assert rt.block_on(echo_once) == b"hello"
assert not logged, logged
"""
)

LATER = (
    FORBID
    + """
if "io_uring" in freerun.build_info().drivers:
    forbid(IO_URING_SETUP, errno.ENOMEM)
    check(freerun.Builder().driver("io_uring"), "this one was refused")
"""
)

INSTALLED = {"PYTHONSAFEPATH": "1"}


@pytest.mark.parametrize(
    ("number", "call", "why"),
    [
        (errno.EPERM, 425, "seccomp"),
        (errno.EACCES, 425, "seccomp"),
        (errno.ENOSYS, 425, "no io_uring"),
        (errno.ENOMEM, 425, "ulimit -l"),
        (errno.EPERM, 426, "seccomp"),  # it may be made, not be used
    ],
    ids=lambda value: errno.errorcode.get(value, str(value)) if isinstance(value, int) else value.replace(" ", "_"),
)
def test_refused(number: int, call: int, why: str) -> None:
    check_script(AT_ALL, str(number), str(call), why, env=INSTALLED)


def test_refused_later() -> None:
    """There is io_uring, and no room for this one."""
    check_script(LATER, env=INSTALLED)


TIMERS = (
    FORBID
    + """
EPOLL_PWAIT2 = 441
forbid(EPOLL_PWAIT2, int(sys.argv[1]))

async def main():
    start = freerun.time.Instant.now()
    for _ in range(10):
        await freerun.time.sleep(0.002)
    assert start.elapsed() >= 0.02
    assert await echo_once() == b"hello"

for builder in (freerun.Builder.new_current_thread(), freerun.Builder().worker_threads(2)):
    with builder.driver("epoll").build() as rt:
        rt.block_on(main)
assert not logged, logged
"""
)


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.EPERM], ids=errno.errorcode.get)
def test_an_epoll_without_nanoseconds(number: int) -> None:
    """Before Linux 5.11, and under filters that do not know the call."""
    check_script(TIMERS, str(number), env=INSTALLED)
