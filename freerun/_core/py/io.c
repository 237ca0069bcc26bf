/* io: descriptors on the driver. The system call comes first; epoll only after EAGAIN or a short read.
 *
 * One operation per direction at a time: its claim (FR_IO_CLAIM_*) stands from its first step until it ends or is
 * dropped, and a second one is refused. A system call in progress is counted, so close() from another thread never
 * pulls the descriptor from under it.
 */
#include <errno.h>
#include <fcntl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "leaf.h"

typedef struct {
    PyObject_HEAD
    struct fr_io *io; /* NULL before __init__; valid until dealloc, closed or not */
    struct fr_module *mod;
    _Atomic uint32_t seen[2]; /* the readiness that readable()/writable() last reported: what clear_*() may undo [D2] */
} IoObject;

enum op_kind { OP_READ, OP_WRITE, OP_WRITE_ALL, OP_ACCEPT, OP_READABLE, OP_WRITABLE };

typedef struct {
    PyObject_HEAD
    IoObject *source;
    struct fr_waiter waiter;
    enum op_kind kind;
    bool claimed;
    _Atomic bool stepping;
    Py_ssize_t size;  /* read: at most; write: in all */
    Py_ssize_t done;  /* write: so far */
    const char *data; /* write: into `bytes` or `view` */
    PyObject *bytes;
    Py_buffer *view;
} OpObject;

/* MOST: what a single read asks for at most; no socket holds more, and a huge `n` is not a wish for as much memory. */
enum { SCRATCH = 65536, MOST = 1 << 26 };

static enum fr_direction direction(const OpObject *op)
{
    return op->kind == OP_WRITE || op->kind == OP_WRITE_ALL || op->kind == OP_WRITABLE ? FR_DIR_WRITE : FR_DIR_READ;
}

static uint32_t claim_of(const OpObject *op)
{
    return direction(op) == FR_DIR_READ ? FR_IO_CLAIM_READ : FR_IO_CLAIM_WRITE;
}

/* ---- errors ---- */

static PyObject *raise_errno(int err)
{
    errno = err;
    return PyErr_SetFromErrno(PyExc_OSError);
}

static PyObject *raise_closed(void)
{
    PyObject *error = PyObject_CallFunction(PyExc_OSError, "is", EBADF, "the stream is closed");
    if (error) {
        PyErr_SetRaisedException(error);
    }
    return NULL;
}

static PyObject *raise_begin(const OpObject *op, int err)
{
    if (err == -EBADF) {
        return raise_closed();
    }
    if (err == -ESHUTDOWN) {
        PyErr_SetString(op->source->mod->exc_shutdown, "the runtime that this stream was made in has been shut down");
        return NULL;
    }
    PyErr_Format(PyExc_RuntimeError,
                 "another task is already %s this stream; one reader and one writer at a time: split() it, or put a "
                 "lock around it",
                 direction(op) == FR_DIR_READ ? "reading from" : "writing to");
    return NULL;
}

/* ---- waiting ---- */

/* Takes the waiter out again, whoever woke us. */
static void unwait(OpObject *op)
{
    /* acquire: false means that nobody reads the waiter any more; pairs with take_waiter_locked() [W1] */
    if (atomic_load_explicit(&op->waiter.linked, memory_order_acquire) &&
        fr_io_unwait(op->source->io, direction(op), &op->waiter)) {
        fr_task_unref(op->waiter.task);
    }
}

static bool wait_for_edge(OpObject *op, struct fr_task *task)
{
    fr_task_ref(task);
    op->waiter.task = task;
    if (fr_io_wait(op->source->io, direction(op), &op->waiter)) {
        return true;
    }
    fr_task_unref(task);
    return false;
}

/* ---- the system calls: bytes, or -errno ---- */

static ssize_t recv_some(int fd, char *buffer, size_t size)
{
    ssize_t n;
    do {
        n = recv(fd, buffer, size, 0);
        if (n < 0 && errno == ENOTSOCK) {
            n = read(fd, buffer, size);
        }
    } while (n < 0 && errno == EINTR);
    return n < 0 ? -errno : n;
}

static ssize_t send_some(int fd, const char *data, size_t size)
{
    ssize_t n;
    do {
        n = send(fd, data, size, MSG_NOSIGNAL);
        if (n < 0 && errno == ENOTSOCK) {
            n = write(fd, data, size);
        }
    } while (n < 0 && errno == EINTR);
    return n < 0 ? -errno : n;
}

/* A short transfer means the kernel's buffer is drained (or full): the next edge will tell. */
static void note_short(struct fr_io *io, uint32_t ready, enum fr_direction dir, ssize_t n, Py_ssize_t asked)
{
    if (n > 0 && n < asked) {
        fr_io_clear(io, ready, dir);
    }
}

/* A result, or NULL with -EAGAIN in *err, or NULL with an exception. */
static PyObject *read_large(struct fr_io *io, Py_ssize_t size, uint32_t ready, int *err)
{
    PyObject *bytes = PyBytes_FromStringAndSize(NULL, size);
    if (!bytes) {
        return NULL;
    }
    ssize_t n = recv_some(io->fd, PyBytes_AS_STRING(bytes), (size_t)size);
    if (n < 0) {
        Py_DECREF(bytes);
        *err = (int)n;
        return NULL;
    }
    note_short(io, ready, FR_DIR_READ, n, size);
    _PyBytes_Resize(&bytes, n);
    return bytes;
}

static PyObject *try_read(OpObject *op, uint32_t ready, int *err)
{
    struct fr_io *io = op->source->io;
    if (op->size > SCRATCH) {
        return read_large(io, op->size, ready, err);
    }
    char scratch[SCRATCH]; /* only as much of it is touched as there is data */
    ssize_t n = recv_some(io->fd, scratch, (size_t)op->size);
    if (n < 0) {
        *err = (int)n;
        return NULL;
    }
    note_short(io, ready, FR_DIR_READ, n, op->size);
    return PyBytes_FromStringAndSize(scratch, n);
}

static PyObject *try_write(OpObject *op, uint32_t ready, int *err)
{
    struct fr_io *io = op->source->io;
    do {
        Py_ssize_t left = op->size - op->done;
        ssize_t n = left ? send_some(io->fd, op->data + op->done, (size_t)left) : 0;
        if (n < 0) {
            *err = (int)n;
            return NULL;
        }
        op->done += n;
        if (n < left) {
            note_short(io, ready, FR_DIR_WRITE, n, left);
            ready = fr_io_ready(io);
        }
    } while (op->kind == OP_WRITE_ALL && op->done < op->size);
    return op->kind == OP_WRITE_ALL ? Py_NewRef(Py_None) : PyLong_FromSsize_t(op->done);
}

static PyObject *try_accept(OpObject *op, int *err)
{
    int fd;
    do {
        fd = accept4(op->source->io->fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
    } while (fd < 0 && (errno == EINTR || errno == ECONNABORTED));
    if (fd < 0) {
        *err = -errno;
        return NULL;
    }
    return PyLong_FromLong(fd);
}

static PyObject *attempt(OpObject *op, uint32_t ready, int *err)
{
    switch (op->kind) {
    case OP_READ:
        return try_read(op, ready, err);
    case OP_WRITE:
    case OP_WRITE_ALL:
        return try_write(op, ready, err);
    case OP_ACCEPT:
        return try_accept(op, err);
    default: /* readiness itself is the answer */
        /* relaxed: the caller's own order; a stale value makes the clear fail, which is safe */
        atomic_store_explicit(&op->source->seen[direction(op)], ready, memory_order_relaxed);
        return Py_NewRef(Py_None);
    }
}

/* ---- one step of an operation ---- */

static void drop_data(OpObject *op)
{
    if (op->view) {
        PyBuffer_Release(op->view);
        PyMem_Free(op->view);
        op->view = NULL;
    }
    Py_CLEAR(op->bytes);
}

/* The buffer is free again now, not when another thread gets to deallocating the operation. */
static void finish(OpObject *op)
{
    if (op->data) {
        op->data = NULL;
        op->size = op->done;
        drop_data(op);
    }
    op->claimed = false;
    fr_io_end(op->source->io, claim_of(op));
}

/* Begins the system call of this step; the claim is taken on the first. */
static int begin(OpObject *op)
{
    int err = fr_io_begin(op->source->io, op->claimed ? 0 : claim_of(op));
    if (!err) {
        op->claimed = true;
    }
    return err;
}

static PyObject *step(OpObject *op, struct fr_task *task)
{
    struct fr_io *io = op->source->io;
    /* acquire: see unwait() */
    if (atomic_load_explicit(&op->waiter.linked, memory_order_acquire) && !fr_leaf_may_take(op->waiter.task, task)) {
        return NULL;
    }
    unwait(op);
    if (!fr_leaf_spend()) {
        return fr_leaf_yield();
    }
    int err;
    while ((err = begin(op)) == 0) {
        uint32_t ready = fr_io_ready(io);
        if (fr_io_is_ready(ready, direction(op))) {
            int failed = 0;
            PyObject *result = attempt(op, ready, &failed);
            if (result) {
                finish(op);
                return fr_leaf_return(result);
            }
            if (failed != -EAGAIN) {
                finish(op);
                return failed ? raise_errno(-failed) : NULL;
            }
            fr_io_clear_all(io, ready, direction(op));
        }
        fr_io_end(io, 0);
        if (wait_for_edge(op, task)) {
            return fr_leaf_park();
        }
    }
    return raise_begin(op, err);
}

static PyObject *op_iternext(PyObject *self)
{
    OpObject *op = (OpObject *)self;
    struct fr_task *task = fr_leaf_task();
    if (!task || !fr_leaf_enter(&op->stepping)) {
        return NULL;
    }
    PyObject *token = step(op, task);
    fr_leaf_exit(&op->stepping);
    return token;
}

static void op_let_go(PyObject *self)
{
    OpObject *op = (OpObject *)self;
    unwait(op);
    if (op->claimed) {
        op->claimed = false;
        fr_io_unclaim(op->source->io, claim_of(op));
    }
}

FR_LEAF_METHODS(op, op_let_go);

static void op_dealloc(PyObject *self)
{
    OpObject *op = (OpObject *)self;
    op_let_go(self);
    drop_data(op);
    Py_DECREF(op->source);
    fr_dealloc(self, FR_FREE_IO_OP);
}

static PyType_Slot op_slots[] = {
    {Py_tp_doc, "What the methods of IoSource return."},
    {Py_tp_dealloc, op_dealloc},
    {Py_tp_methods, op_methods},
    FR_LEAF_SLOTS(op_iternext),
    {0, NULL},
};

static PyType_Spec op_spec = {
    .name = "freerun._core._native.IoOperation",
    .basicsize = sizeof(OpObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = op_slots,
};

static OpObject *op_new(IoObject *source, enum op_kind kind)
{
    if (!source->io) {
        raise_closed();
        return NULL;
    }
    OpObject *op = (OpObject *)fr_alloc(source->mod->io_op_type, FR_FREE_IO_OP);
    if (op) {
        op->source = (IoObject *)Py_NewRef(source);
        op->waiter = (struct fr_waiter){.task = NULL};
        op->kind = kind;
        op->claimed = false;
        atomic_init(&op->stepping, false);
        op->size = op->done = 0;
        op->data = NULL;
        op->bytes = NULL;
        op->view = NULL;
    }
    return op;
}

/* ---- IoSource ---- */

static PyObject *io_read(PyObject *self, PyObject *const *args, Py_ssize_t nargs)
{
    Py_ssize_t size = SCRATCH;
    if (nargs > 1) {
        PyErr_SetString(PyExc_TypeError, "read() takes at most one argument, 'n'");
        return NULL;
    }
    if (nargs == 1) {
        if (!PyIndex_Check(args[0]) || PyBool_Check(args[0])) {
            PyErr_Format(PyExc_TypeError, "argument 'n' must be an int, not %.200s", Py_TYPE(args[0])->tp_name);
            return NULL;
        }
        size = PyNumber_AsSsize_t(args[0], NULL); /* clipped to what fits */
        if (size == -1 && PyErr_Occurred()) {
            return NULL;
        }
        if (size <= 0) {
            PyErr_Format(PyExc_ValueError, "argument 'n' must be positive, not %R", args[0]);
            return NULL;
        }
        size = size < MOST ? size : MOST;
    }
    OpObject *op = op_new((IoObject *)self, OP_READ);
    if (op) {
        op->size = size;
    }
    return (PyObject *)op;
}

static int hold_buffer(OpObject *op, PyObject *data)
{
    if (PyBytes_CheckExact(data)) {
        op->bytes = Py_NewRef(data);
        op->data = PyBytes_AS_STRING(data);
        op->size = PyBytes_GET_SIZE(data);
        return 0;
    }
    Py_buffer *view = PyMem_Malloc(sizeof *view);
    if (!view) {
        PyErr_NoMemory();
        return -1;
    }
    if (PyObject_GetBuffer(data, view, PyBUF_SIMPLE)) {
        PyMem_Free(view);
        return -1;
    }
    op->view = view;
    op->data = view->buf;
    op->size = view->len;
    return 0;
}

static PyObject *write_op(PyObject *self, PyObject *data, enum op_kind kind)
{
    OpObject *op = op_new((IoObject *)self, kind);
    if (op && hold_buffer(op, data)) {
        Py_CLEAR(op);
    }
    return (PyObject *)op;
}

static PyObject *io_write(PyObject *self, PyObject *data)
{
    return write_op(self, data, OP_WRITE);
}

static PyObject *io_write_all(PyObject *self, PyObject *data)
{
    return write_op(self, data, OP_WRITE_ALL);
}

static PyObject *io_accept_fd(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    return (PyObject *)op_new((IoObject *)self, OP_ACCEPT);
}

static PyObject *io_readable(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    return (PyObject *)op_new((IoObject *)self, OP_READABLE);
}

static PyObject *io_writable(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    return (PyObject *)op_new((IoObject *)self, OP_WRITABLE);
}

static PyObject *clear_direction(PyObject *self, enum fr_direction dir)
{
    struct fr_io *io = ((IoObject *)self)->io;
    if (io) {
        /* relaxed: see attempt() */
        fr_io_clear_all(io, atomic_load_explicit(&((IoObject *)self)->seen[dir], memory_order_relaxed), dir);
    }
    Py_RETURN_NONE;
}

static PyObject *io_clear_readable(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    return clear_direction(self, FR_DIR_READ);
}

static PyObject *io_clear_writable(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    return clear_direction(self, FR_DIR_WRITE);
}

static bool io_is_closed(IoObject *self)
{
    /* acquire: pairs with fr_io_close() */
    return !self->io || atomic_load_explicit(&self->io->use, memory_order_acquire) & FR_IO_CLOSED;
}

static PyObject *io_fileno(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    return PyLong_FromLong(io_is_closed((IoObject *)self) ? -1 : ((IoObject *)self)->io->fd);
}

static PyObject *io_get_closed(PyObject *self, void *Py_UNUSED(closure))
{
    return PyBool_FromLong(io_is_closed((IoObject *)self));
}

static PyObject *io_close(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    if (((IoObject *)self)->io) {
        fr_io_close(((IoObject *)self)->io);
    }
    Py_RETURN_NONE;
}

static PyObject *io_detach(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    if (io_is_closed((IoObject *)self)) {
        return raise_closed();
    }
    int fd = fr_io_detach(((IoObject *)self)->io);
    if (fd < 0) {
        PyErr_SetString(PyExc_RuntimeError, "detach() while an operation is in progress on this stream");
        return NULL;
    }
    return PyLong_FromLong(fd);
}

static int io_init(PyObject *op, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"", NULL};
    IoObject *self = (IoObject *)op;
    PyObject *module = PyType_GetModuleByDef(Py_TYPE(op), &fr_module_def);
    int fd, err;
    if (!module || !PyArg_ParseTupleAndKeywords(args, kwargs, "i:IoSource", names, &fd)) {
        return -1;
    }
    struct fr_visit visit;
    self->mod = PyModule_GetState(module);
    if (self->io) {
        PyErr_SetString(PyExc_RuntimeError, "__init__ was called twice");
        return -1;
    }
    if (!fr_visit_current(self->mod, &visit)) {
        return -1;
    }
    int flags = fcntl(fd, F_GETFL);
    if (!visit.rt->io) {
        PyErr_SetString(PyExc_RuntimeError, "this runtime was built without I/O; call Builder.enable_io() or "
                                            "enable_all()");
    } else if (flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK)) {
        PyErr_SetFromErrno(PyExc_OSError);
    } else if ((err = fr_io_open(&visit.rt->driver, fd, &self->io))) {
        raise_errno(-err);
    }
    fr_visit_end(&visit);
    return self->io ? 0 : -1;
}

static void io_dealloc(PyObject *self)
{
    struct fr_io *io = ((IoObject *)self)->io;
    PyTypeObject *type = Py_TYPE(self);
    if (io) {
        fr_io_close(io);
        fr_io_release(io);
    }
    type->tp_free(self);
    Py_DECREF(type);
}

static PyMethodDef io_methods[] = {
    {"read", (PyCFunction)(void (*)(void))io_read, METH_FASTCALL,
     "read($self, n=65536, /)\n--\n\nUp to n bytes; b\"\" at the end of the stream. Cancel safe."},
    {"write", io_write, METH_O, "write($self, data, /)\n--\n\nWrite some of data; how much. Cancel safe."},
    {"write_all", io_write_all, METH_O,
     "write_all($self, data, /)\n--\n\nWrite all of data. Not cancel safe: part of it may have been written."},
    {"accept_fd", io_accept_fd, METH_NOARGS, "accept_fd($self)\n--\n\nThe next connection's descriptor. Cancel safe."},
    {"readable", io_readable, METH_NOARGS, "readable($self)\n--\n\nWait until a read may succeed. Cancel safe."},
    {"writable", io_writable, METH_NOARGS, "writable($self)\n--\n\nWait until a write may succeed. Cancel safe."},
    {"clear_readable", io_clear_readable, METH_NOARGS,
     "clear_readable($self)\n--\n\nForget that it was readable: a read has said EAGAIN."},
    {"clear_writable", io_clear_writable, METH_NOARGS,
     "clear_writable($self)\n--\n\nForget that it was writable: a write has said EAGAIN."},
    {"fileno", io_fileno, METH_NOARGS, "fileno($self)\n--\n\nThe descriptor, -1 once closed."},
    {"close", io_close, METH_NOARGS,
     "close($self)\n--\n\nClose the descriptor; operations in progress raise OSError. Idempotent, any thread."},
    {"detach", io_detach, METH_NOARGS, "detach($self)\n--\n\nGive the descriptor back, unregistered."},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef io_getset[] = {
    {"closed", io_get_closed, NULL, "Whether close() was called.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot io_slots[] = {
    {Py_tp_doc, "A non-blocking descriptor registered with the current runtime's driver, which it owns."},
    {Py_tp_new, PyType_GenericNew},
    {Py_tp_init, io_init},
    {Py_tp_dealloc, io_dealloc},
    {Py_tp_methods, io_methods},
    {Py_tp_getset, io_getset},
    {0, NULL},
};

static PyType_Spec io_spec = {
    .name = "freerun._core._native.IoSource",
    .basicsize = sizeof(IoObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE,
    .slots = io_slots,
};

int fr_io_add_types(struct fr_module *mod)
{
    return fr_module_add_type(mod, &mod->io_type, &io_spec, "IoSource") ||
                   fr_module_add_type(mod, &mod->io_op_type, &op_spec, NULL)
               ? -1
               : 0;
}
