/* io_calls: the system calls of operations, and what their results mean for the readiness. */
#include <errno.h>
#include <limits.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include "io.h"

#ifndef IOV_MAX
#define IOV_MAX 1024
#endif

/* ---- bytes, or -errno ---- */

/* The C library's recv() and send() are cancellation points: two locked instructions each once a process has threads.
 * Nobody cancels ours. */
#if defined(SYS_recvfrom) && defined(SYS_sendto)
static ssize_t raw_recv(int fd, char *buffer, size_t size, int flags)
{
    return syscall(SYS_recvfrom, fd, buffer, size, flags, NULL, NULL);
}

static ssize_t raw_send(int fd, const char *data, size_t size, int flags)
{
    return syscall(SYS_sendto, fd, data, size, flags, NULL, 0);
}
#else
#define raw_recv recv
#define raw_send send
#endif

static ssize_t recv_some(int fd, char *buffer, size_t size, int flags)
{
    ssize_t n;
    do {
        n = raw_recv(fd, buffer, size, flags);
        if (n < 0 && errno == ENOTSOCK && !flags) {
            n = read(fd, buffer, size);
        }
    } while (n < 0 && errno == EINTR);
    return n < 0 ? -errno : n;
}

static ssize_t recv_from(int fd, char *buffer, size_t size, int flags, struct fr_address *from)
{
    ssize_t n;
    do {
        from->size = sizeof from->as;
        n = recvfrom(fd, buffer, size, flags, &from->as.any, &from->size);
    } while (n < 0 && errno == EINTR);
    return n < 0 ? -errno : n;
}

static ssize_t send_some(int fd, const char *data, size_t size)
{
    ssize_t n;
    do {
        n = raw_send(fd, data, size, MSG_NOSIGNAL);
        if (n < 0 && errno == ENOTSOCK) {
            n = write(fd, data, size);
        }
    } while (n < 0 && errno == EINTR);
    return n < 0 ? -errno : n;
}

static ssize_t send_to(int fd, const char *data, size_t size, const struct fr_address *to)
{
    ssize_t n;
    do {
        n = sendto(fd, data, size, MSG_NOSIGNAL, &to->as.any, to->size);
    } while (n < 0 && errno == EINTR);
    return n < 0 ? -errno : n;
}

static ssize_t send_vector(int fd, struct iovec *parts, int count)
{
    struct msghdr message = {.msg_iov = parts, .msg_iovlen = (size_t)count};
    ssize_t n;
    do {
        n = sendmsg(fd, &message, MSG_NOSIGNAL);
        if (n < 0 && errno == ENOTSOCK) {
            n = writev(fd, parts, count);
        }
    } while (n < 0 && errno == EINTR);
    return n < 0 ? -errno : n;
}

/* Fewer bytes than were asked for: the kernel's buffer is drained (or full), the next edge will tell [IO4]. */
static void note_short(OpObject *op, uint32_t ready, enum fr_direction dir, ssize_t n, Py_ssize_t asked)
{
    if (n > 0 && n < asked && op->source->byte_stream) {
        fr_io_clear(op->source->io, ready, dir);
    }
}

/* ---- reading ---- */

static bool wants_address(const OpObject *op)
{
    return op->kind == FR_OP_RECV_FROM || op->kind == FR_OP_RECV_FROM_INTO;
}

static ssize_t receive(OpObject *op, char *buffer, uint32_t ready, struct fr_address *from)
{
    struct fr_io *io = op->source->io;
    if (wants_address(op)) {
        return recv_from(io->fd, buffer, (size_t)op->size, op->flags, from);
    }
    ssize_t n = recv_some(io->fd, buffer, (size_t)op->size, op->flags);
    if (!op->datagram && !op->flags) {
        note_short(op, ready, FR_DIR_READ, n, op->size);
    }
    return n;
}

/* `value` (stolen), with the sender's address where it was asked for. */
static PyObject *with_address(const OpObject *op, PyObject *value, const struct fr_address *from)
{
    if (!value || !wants_address(op)) {
        return value;
    }
    PyObject *address = fr_address_to_python(from);
    PyObject *pair = address ? PyTuple_Pack(2, value, address) : NULL;
    Py_XDECREF(address);
    Py_DECREF(value);
    return pair;
}

static PyObject *read_large(OpObject *op, uint32_t ready, int *err)
{
    struct fr_address from;
    PyObject *bytes = PyBytes_FromStringAndSize(NULL, op->size);
    if (!bytes) {
        return NULL;
    }
    ssize_t n = receive(op, PyBytes_AS_STRING(bytes), ready, &from);
    if (n < 0) {
        Py_DECREF(bytes);
        *err = (int)n;
        return NULL;
    }
    _PyBytes_Resize(&bytes, n);
    return with_address(op, bytes, &from);
}

static PyObject *read_small(OpObject *op, uint32_t ready, int *err)
{
    struct fr_address from;
    char scratch[FR_IO_SCRATCH]; /* only as much of it is touched as there is data */
    ssize_t n = receive(op, scratch, ready, &from);
    if (n < 0) {
        *err = (int)n;
        return NULL;
    }
    return with_address(op, PyBytes_FromStringAndSize(scratch, n), &from);
}

static PyObject *read_into(OpObject *op, uint32_t ready, int *err)
{
    struct fr_address from;
    ssize_t n = receive(op, op->data, ready, &from);
    if (n < 0) {
        *err = (int)n;
        return NULL;
    }
    return with_address(op, PyLong_FromSsize_t(n), &from);
}

static PyObject *accept_one(OpObject *op, int *err)
{
    struct fr_address from;
    int fd;
    do { /* gone before it was taken: the next one, as accept(2) says */
        from.size = sizeof from.as;
        fd = accept4(op->source->io->fd, &from.as.any, &from.size, SOCK_NONBLOCK | SOCK_CLOEXEC);
    } while (fd < 0 && (errno == EINTR || errno == ECONNABORTED || errno == EPROTO));
    if (fd < 0) {
        *err = -errno;
        return NULL;
    }
    PyObject *address = fr_address_to_python(&from);
    PyObject *pair = address ? Py_BuildValue("(iN)", fd, address) : NULL;
    if (!pair) {
        close(fd);
    }
    return pair;
}

/* ---- writing ---- */

static PyObject *write_some(OpObject *op, uint32_t ready, int *err)
{
    struct fr_io *io = op->source->io;
    do {
        Py_ssize_t left = op->size - op->done;
        /* An empty datagram is one; of a stream there is nothing to send. */
        ssize_t n = left || op->datagram ? send_some(io->fd, op->data + op->done, (size_t)left) : 0;
        if (n < 0) {
            *err = (int)n;
            return NULL;
        }
        op->done += n;
        if (n < left && !op->datagram) {
            note_short(op, ready, FR_DIR_WRITE, n, left);
            ready = fr_io_ready(io);
        }
    } while (op->kind == FR_OP_WRITE_ALL && op->done < op->size);
    return op->kind == FR_OP_WRITE_ALL ? Py_NewRef(Py_None) : PyLong_FromSsize_t(op->done);
}

static PyObject *write_vectored(OpObject *op, uint32_t ready, int *err)
{
    struct iovec parts[IOV_MAX];
    int count = op->extra->buffers < IOV_MAX ? op->extra->buffers : IOV_MAX;
    Py_ssize_t asked = 0;
    for (int i = 0; i < count; i++) {
        parts[i] = (struct iovec){.iov_base = op->extra->view[i].buf, .iov_len = (size_t)op->extra->view[i].len};
        asked += op->extra->view[i].len;
    }
    ssize_t n = asked ? send_vector(op->source->io->fd, parts, count) : 0;
    if (n < 0) {
        *err = (int)n;
        return NULL;
    }
    note_short(op, ready, FR_DIR_WRITE, n, asked);
    return PyLong_FromSsize_t(n);
}

static PyObject *send_datagram(OpObject *op, int *err)
{
    ssize_t n = send_to(op->source->io->fd, op->data, (size_t)op->size, &op->extra->address);
    if (n < 0) {
        *err = (int)n;
        return NULL;
    }
    return PyLong_FromSsize_t(n);
}

PyObject *fr_io_attempt(OpObject *op, uint32_t ready, int *err)
{
    switch ((enum fr_op_kind)op->kind) {
    case FR_OP_READ:
    case FR_OP_RECV_FROM:
        return op->size > FR_IO_SCRATCH ? read_large(op, ready, err) : read_small(op, ready, err);
    case FR_OP_READ_INTO:
    case FR_OP_RECV_FROM_INTO:
        return read_into(op, ready, err);
    case FR_OP_ACCEPT:
        return accept_one(op, err);
    case FR_OP_WRITE:
    case FR_OP_WRITE_ALL:
        return write_some(op, ready, err);
    case FR_OP_WRITE_VECTORED:
        return write_vectored(op, ready, err);
    case FR_OP_SEND_TO:
        return send_datagram(op, err);
    case FR_OP_READABLE:
    case FR_OP_WRITABLE:
        /* relaxed: the caller's own order; a stale value makes the clear fail, which is safe */
        atomic_store_explicit(&op->source->seen[fr_op_direction(op)], ready, memory_order_relaxed);
        return Py_NewRef(Py_None);
    case FR_OP_READ_READY:
    case FR_OP_WRITE_READY:
        return PyLong_FromUnsignedLong(ready);
    }
    Py_UNREACHABLE();
}
