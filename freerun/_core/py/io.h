/* io: descriptors on the driver, and the operations that wait for them.
 *
 * The system call comes first; epoll only after EAGAIN, or after a short transfer on a stream.
 *
 * FILES      io.c the Python types; io_op.c one operation as a leaf; io_calls.c the system calls; address.c socket
 *            addresses.
 * THREADS    IoObject: any. OpObject: the thread that polls the task; `stepping` turns a second one away.
 * STATE      attached. Everything here is non-blocking.
 * OWNERSHIP  an IoObject owns its fr_io, and that the descriptor. An OpObject owns a reference of its IoObject, the
 *            buffers in `hold`, and `extra`.
 * FIELDS     seen     relaxed: the readiness that readable()/writable() last reported: what clear_*() may undo [D2]
 *            waiter   see waiter.h; its list is the fr_io's slot of this direction
 *            the rest is written by the one thread that steps the operation
 * INVARIANTS IO1 one operation per direction at a time: its claim (FR_IO_CLAIM_*) stands from its first step until it
 *                ends or is dropped, and a second one is refused.
 *            IO2 a system call in progress is counted, so close() from another thread never pulls the descriptor from
 *                under it.
 *            IO3 a result is made in the step that makes the system call: whoever is cancelled lost nothing.
 *            IO4 on a stream, fewer bytes than were asked for mean that the kernel has no more. A datagram says nothing
 *                about the next one, and what was peeked at is still there.
 *            IO5 an operation that ended, was cancelled or closed holds no buffer; it is over.
 * LOCKS      none but the fr_io's own.
 * SHUTDOWN   see driver.h: an orphaned fr_io refuses to begin anything, and may be closed.
 * PROVED BY  tests/net/
 */
#ifndef FR_IO_H
#define FR_IO_H

#include "address.h"
#include "leaf.h"

typedef struct {
    PyObject_HEAD
    struct fr_io *io; /* NULL before __init__; valid until dealloc, closed or not */
    struct fr_module *mod;
    _Atomic uint32_t seen[2];
    _Atomic bool made; /* __init__ has begun: one thread makes it */
    bool byte_stream;  /* a stream socket, of which a short transfer says that it is drained [IO4] */
} IoObject;

enum fr_op_kind {
    FR_OP_READ,
    FR_OP_READ_INTO,
    FR_OP_RECV_FROM,
    FR_OP_RECV_FROM_INTO,
    FR_OP_ACCEPT,
    FR_OP_READABLE,   /* the readiness is kept in `seen` */
    FR_OP_READ_READY, /* the readiness is the result */
    FR_OP_WRITE,      /* from here on: the writing direction */
    FR_OP_WRITE_ALL,
    FR_OP_WRITE_VECTORED,
    FR_OP_SEND_TO,
    FR_OP_WRITABLE,
    FR_OP_WRITE_READY,
};

/* What write_vectored() and send_to() need besides; one of the two. */
struct fr_op_extra {
    struct fr_address address;
    int buffers;
    Py_buffer view[];
};

typedef struct {
    PyObject_HEAD
    IoObject *source;
    struct fr_waiter waiter;
    uint8_t kind;
    bool datagram;
    bool claimed;
    bool over; /* cancelled or closed: its buffers are gone [IO5] */
    _Atomic bool stepping;
    int flags;       /* of recv(2) */
    Py_ssize_t size; /* reading: at most; writing: in all */
    Py_ssize_t done; /* writing: so far */
    char *data;      /* into `bytes` or `view` */
    PyObject *bytes;
    Py_buffer *view;
    struct fr_op_extra *extra;
} OpObject;

/* FR_IO_SCRATCH: what is read onto the stack. FR_IO_MOST: what a single read asks for at most; no socket holds more, and
 * a huge `n` is not a wish for as much memory. */
enum { FR_IO_SCRATCH = 65536, FR_IO_MOST = 1 << 26 };

static inline enum fr_direction fr_op_direction(const OpObject *op)
{
    return op->kind >= FR_OP_WRITE ? FR_DIR_WRITE : FR_DIR_READ;
}

/* ---- io_calls.c ---- */

/* The operation's system call: its result, or NULL with -EAGAIN or another -errno in *err, or NULL with an exception
 * and *err 0. `ready` was read before. */
PyObject *fr_io_attempt(OpObject *op, uint32_t ready, int *err);

/* ---- io_op.c ---- */

extern PyType_Spec fr_io_op_spec;
OpObject *fr_op_new(IoObject *source, enum fr_op_kind kind);
/* Lets go of the buffers. */
void fr_op_drop_data(OpObject *op);
/* Makes the system call at once, whatever the readiness; WouldBlock instead of waiting. Steals `op`, which may be NULL
 * with an exception. */
PyObject *fr_op_now(OpObject *op);
PyObject *fr_io_raise_closed(void);
/* For fr_io_begin()'s errors. */
PyObject *fr_io_raise_begin(struct fr_module *mod, enum fr_direction dir, int err);
PyObject *fr_io_raise_would_block(struct fr_module *mod, enum fr_direction dir);

#endif
