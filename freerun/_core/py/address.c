#include "address.h"

#include <arpa/inet.h>
#include <stddef.h>
#include <string.h>

static int bad_type(PyObject *value)
{
    PyErr_Format(PyExc_TypeError,
                 "argument 'addr' must be (host, port) or (host, port, flow, scope), or a path as str or bytes, not "
                 "%.200s",
                 Py_TYPE(value)->tp_name);
    return -1;
}

/* ---- from Python ---- */

static int fill_host(struct fr_address *address, const char *host, long port, long long flow, long long scope)
{
    memset(&address->as, 0, sizeof address->as);
    if (inet_pton(AF_INET, host, &address->as.v4.sin_addr) == 1) {
        address->as.v4.sin_family = AF_INET;
        address->as.v4.sin_port = htons((uint16_t)port);
        address->size = sizeof address->as.v4;
        return 0;
    }
    if (inet_pton(AF_INET6, host, &address->as.v6.sin6_addr) == 1) {
        address->as.v6.sin6_family = AF_INET6;
        address->as.v6.sin6_port = htons((uint16_t)port);
        address->as.v6.sin6_flowinfo = htonl((uint32_t)flow);
        address->as.v6.sin6_scope_id = (uint32_t)scope;
        address->size = sizeof address->as.v6;
        return 0;
    }
    PyErr_Format(PyExc_ValueError, "argument 'addr': the host must be an IP address here, not %.200s", host);
    return -1;
}

static int from_tuple(struct fr_address *address, PyObject *value)
{
    const char *host;
    long port;
    long long flow = 0, scope = 0;
    Py_ssize_t parts = PyTuple_GET_SIZE(value);
    if (parts != 2 && parts != 4) {
        PyErr_Format(PyExc_ValueError, "argument 'addr' must be a (host, port) tuple, not one of %zd items", parts);
        return -1;
    }
    if (!PyArg_ParseTuple(value, "sl|LL:addr", &host, &port, &flow, &scope)) {
        return -1;
    }
    if (port < 0 || port > 65535 || flow < 0 || flow > 0xfffff || scope < 0 || scope > UINT32_MAX) {
        PyErr_Format(PyExc_ValueError, "argument 'addr': the port, flow or scope is out of range: %R", value);
        return -1;
    }
    return fill_host(address, host, port, flow, scope);
}

static int fill_path(struct fr_address *address, const char *path, size_t size)
{
    struct sockaddr_un *un = &address->as.local;
    bool abstract = size > 0 && path[0] == '\0';
    if (size > sizeof un->sun_path - (abstract ? 0 : 1)) {
        PyErr_Format(PyExc_ValueError, "argument 'path' is too long for a Unix socket: %zu bytes; at most %zu fit",
                     size, sizeof un->sun_path - 1);
        return -1;
    }
    if (size == 0 || (!abstract && memchr(path, '\0', size))) {
        PyErr_SetString(PyExc_ValueError, size ? "argument 'path' must not have a zero byte in it, except the first, "
                                                 "which makes it an abstract name"
                                               : "argument 'path' must not be empty");
        return -1;
    }
    memset(un, 0, sizeof *un);
    un->sun_family = AF_UNIX;
    memcpy(un->sun_path, path, size);
    /* An abstract name is as long as it is said to be; a path ends with a zero. */
    address->size = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + size + (abstract ? 0 : 1));
    return 0;
}

static int from_path(struct fr_address *address, PyObject *value)
{
    PyObject *encoded = PyUnicode_Check(value) ? PyUnicode_EncodeFSDefault(value) : Py_NewRef(value);
    if (!encoded) {
        return -1;
    }
    int result = fill_path(address, PyBytes_AS_STRING(encoded), (size_t)PyBytes_GET_SIZE(encoded));
    Py_DECREF(encoded);
    return result;
}

int fr_address_from_python(struct fr_address *address, PyObject *value)
{
    if (PyTuple_Check(value)) {
        return from_tuple(address, value);
    }
    return PyUnicode_Check(value) || PyBytes_Check(value) ? from_path(address, value) : bad_type(value);
}

/* ---- to Python ---- */

static PyObject *path_to_python(const struct fr_address *address)
{
    const struct sockaddr_un *un = &address->as.local;
    size_t head = offsetof(struct sockaddr_un, sun_path);
    size_t size = address->size > head ? address->size - head : 0;
    if (size > sizeof un->sun_path) {
        size = sizeof un->sun_path;
    }
    if (size > 0 && un->sun_path[0] == '\0') {
        return PyBytes_FromStringAndSize(un->sun_path, (Py_ssize_t)size);
    }
    return PyUnicode_DecodeFSDefaultAndSize(un->sun_path, (Py_ssize_t)strnlen(un->sun_path, size));
}

PyObject *fr_address_to_python(const struct fr_address *address)
{
    char host[INET6_ADDRSTRLEN];
    if (address->size < sizeof address->as.any.sa_family) {
        return PyUnicode_FromString(""); /* a Unix socket without a name */
    }
    switch (address->as.any.sa_family) {
    case AF_INET:
        inet_ntop(AF_INET, &address->as.v4.sin_addr, host, sizeof host);
        return Py_BuildValue("(si)", host, (int)ntohs(address->as.v4.sin_port));
    case AF_INET6:
        inet_ntop(AF_INET6, &address->as.v6.sin6_addr, host, sizeof host);
        return Py_BuildValue("(siII)", host, (int)ntohs(address->as.v6.sin6_port),
                             (unsigned)ntohl(address->as.v6.sin6_flowinfo), (unsigned)address->as.v6.sin6_scope_id);
    case AF_UNIX:
        return path_to_python(address);
    default:
        return Py_BuildValue("(i)", (int)address->as.any.sa_family); /* a family that Python has no form for here */
    }
}
