/* address: socket addresses as Python has them, and as the kernel has them.
 *
 * IPv4: (host, port); IPv6: (host, port, flow, scope); Unix: a path as str, an abstract name as bytes that begin with
 * a zero, "" for a socket without a name. Hosts are numbers here: names are looked up in freerun/net/lookup.py.
 *
 * THREADS    any.
 * STATE      attached.
 * OWNERSHIP  none.
 * PROVED BY  tests/net/test_udp.py, tests/net/test_unix.py
 */
#ifndef FR_ADDRESS_H
#define FR_ADDRESS_H

#define PY_SSIZE_T_CLEAN
#include <netinet/in.h>
#include <Python.h>
#include <stdbool.h>
#include <sys/socket.h>
#include <sys/un.h>

struct fr_address {
    socklen_t size;
    union {
        struct sockaddr any;
        struct sockaddr_in v4;
        struct sockaddr_in6 v6;
        struct sockaddr_un local;
    } as;
};

/* 0, or -1 with TypeError or ValueError. */
int fr_address_from_python(struct fr_address *address, PyObject *value);
PyObject *fr_address_to_python(const struct fr_address *address);

#endif
