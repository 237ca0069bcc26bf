/* io: IoSource and its kinds: streams, datagram sockets, listening sockets. */
#include "io.h"

#include <errno.h>
#include <fcntl.h>

#include <unistd.h>

/* ---- arguments ---- */

/* The size of a read; -1 with an exception. */
static Py_ssize_t size_argument(const char *method, PyObject *const *args, Py_ssize_t nargs)
{
    Py_ssize_t size;
    if (nargs > 1) {
        PyErr_Format(PyExc_TypeError, "%s() takes at most one argument, 'n'", method);
        return -1;
    }
    if (nargs == 0) {
        return FR_IO_SCRATCH;
    }
    if (PyLong_CheckExact(args[0]) && (size = PyLong_AsSsize_t(args[0])) > 0) {
        return size < FR_IO_MOST ? size : FR_IO_MOST;
    }
    PyErr_Clear(); /* it is too large a number: clipped below */
    if (!PyIndex_Check(args[0]) || PyBool_Check(args[0])) {
        PyErr_Format(PyExc_TypeError, "argument 'n' must be an int, not %.200s", Py_TYPE(args[0])->tp_name);
        return -1;
    }
    size = PyNumber_AsSsize_t(args[0], NULL); /* clipped to what fits */
    if (size == -1 && PyErr_Occurred()) {
        return -1;
    }
    if (size <= 0) {
        PyErr_Format(PyExc_ValueError, "argument 'n' must be positive, not %R", args[0]);
        return -1;
    }
    return size < FR_IO_MOST ? size : FR_IO_MOST;
}

/* A TypeError about a buffer, in our words; other errors stay. */
static void name_data(const char *argument, PyObject *value)
{
    if (PyErr_ExceptionMatches(PyExc_TypeError)) {
        PyErr_Format(PyExc_TypeError, "argument '%s' must be bytes-like, not %.200s%s", argument,
                     Py_TYPE(value)->tp_name, PyUnicode_Check(value) ? "; encode() it" : "");
    }
}

static int take_view(OpObject *op, PyObject *object, int flags)
{
    Py_buffer *view = PyMem_Malloc(sizeof *view);
    if (!view) {
        PyErr_NoMemory();
        return -1;
    }
    if (PyObject_GetBuffer(object, view, flags)) {
        PyMem_Free(view);
        return -1;
    }
    op->view = view;
    op->data = view->buf;
    op->size = view->len;
    return 0;
}

static int hold_data(OpObject *op, PyObject *data)
{
    if (!PyBytes_CheckExact(data)) {
        int result = take_view(op, data, PyBUF_SIMPLE);
        if (result) {
            name_data("data", data);
        }
        return result;
    }
    op->bytes = Py_NewRef(data);
    op->data = PyBytes_AS_STRING(data);
    op->size = PyBytes_GET_SIZE(data);
    return 0;
}

static int hold_room(OpObject *op, PyObject *buffer)
{
    if (take_view(op, buffer, PyBUF_WRITABLE)) {
        if (PyErr_ExceptionMatches(PyExc_TypeError) || PyErr_ExceptionMatches(PyExc_BufferError)) {
            PyErr_Format(PyExc_TypeError,
                         "argument 'buf' must be a writable bytes-like object (a bytearray, a memoryview), not %.200s",
                         Py_TYPE(buffer)->tp_name);
        }
        return -1;
    }
    if (op->size == 0) {
        PyErr_SetString(PyExc_ValueError, "argument 'buf' must not be empty");
        return -1;
    }
    return 0;
}

static struct fr_op_extra *add_extra(OpObject *op, Py_ssize_t buffers)
{
    op->extra = PyMem_Malloc(sizeof *op->extra + (size_t)buffers * sizeof(Py_buffer));
    if (op->extra) {
        op->extra->buffers = 0;
    } else {
        PyErr_NoMemory();
    }
    return op->extra;
}

/* Drops a half-made operation. */
static OpObject *op_or_null(OpObject *op, int err)
{
    if (op && err) {
        Py_CLEAR(op);
    }
    return op;
}

/* ---- operations ---- */

static OpObject *new_read(PyObject *self, enum fr_op_kind kind, const char *method, PyObject *const *args,
                          Py_ssize_t nargs)
{
    Py_ssize_t size = size_argument(method, args, nargs);
    OpObject *op = size < 0 ? NULL : fr_op_new((IoObject *)self, kind);
    if (op) {
        op->size = size;
    }
    return op;
}

static OpObject *new_peek(PyObject *self, enum fr_op_kind kind, const char *method, PyObject *const *args,
                          Py_ssize_t nargs)
{
    OpObject *op = new_read(self, kind, method, args, nargs);
    if (op) {
        op->flags = MSG_PEEK;
    }
    return op;
}

static OpObject *new_read_into(PyObject *self, enum fr_op_kind kind, PyObject *buffer)
{
    OpObject *op = fr_op_new((IoObject *)self, kind);
    return op_or_null(op, op && hold_room(op, buffer));
}

static OpObject *new_write(PyObject *self, enum fr_op_kind kind, PyObject *data)
{
    OpObject *op = fr_op_new((IoObject *)self, kind);
    return op_or_null(op, op && hold_data(op, data));
}

static OpObject *as_datagram(OpObject *op)
{
    if (op) {
        op->datagram = true;
    }
    return op;
}

static int take_views(OpObject *op, PyObject *list)
{
    Py_ssize_t count = PySequence_Fast_GET_SIZE(list);
    count = count < INT16_MAX ? count : INT16_MAX; /* more than one call takes anyway */
    if (!add_extra(op, count)) {
        return -1;
    }
    for (Py_ssize_t i = 0; i < count; i++) {
        PyObject *item = PySequence_Fast_GET_ITEM(list, i);
        if (PyObject_GetBuffer(item, &op->extra->view[i], PyBUF_SIMPLE)) {
            char name[32];
            PyOS_snprintf(name, sizeof name, "buffers[%zd]", i);
            name_data(name, item);
            return -1;
        }
        op->extra->buffers++;
    }
    return 0;
}

static OpObject *new_write_vectored(PyObject *self, PyObject *buffers)
{
    if (PyBytes_Check(buffers) || PyByteArray_Check(buffers) || PyMemoryView_Check(buffers)) {
        PyErr_SetString(PyExc_TypeError,
                        "argument 'buffers' must be a sequence of bytes-like objects, not one of them");
        return NULL;
    }
    if (!Py_TYPE(buffers)->tp_iter && !PySequence_Check(buffers)) {
        PyErr_Format(PyExc_TypeError, "argument 'buffers' must be a sequence of bytes-like objects, not %.200s",
                     Py_TYPE(buffers)->tp_name);
        return NULL;
    }
    PyObject *list = PySequence_Tuple(buffers); /* a copy: nobody changes it under our hands */
    OpObject *op = list ? fr_op_new((IoObject *)self, FR_OP_WRITE_VECTORED) : NULL;
    op = op_or_null(op, op && take_views(op, list));
    Py_XDECREF(list);
    return op;
}

static OpObject *new_send_to(PyObject *self, PyObject *const *args, Py_ssize_t nargs)
{
    if (nargs != 2) {
        PyErr_SetString(PyExc_TypeError, "send_to() takes two arguments, 'data' and 'addr'");
        return NULL;
    }
    OpObject *op = as_datagram(fr_op_new((IoObject *)self, FR_OP_SEND_TO));
    return op_or_null(op, op && (hold_data(op, args[0]) || !add_extra(op, 0) ||
                                 fr_address_from_python(&op->extra->address, args[1])));
}

/* ---- IoSource ---- */

#define FASTCALL(function) (PyCFunction)(void (*)(void)) function, METH_FASTCALL

static bool is_closed(IoObject *self)
{
    /* acquire: pairs with fr_io_close() */
    return !self->io || atomic_load_explicit(&self->io->use, memory_order_acquire) & FR_IO_CLOSED;
}

static PyObject *source_readable(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    return (PyObject *)fr_op_new((IoObject *)self, FR_OP_READABLE);
}

static PyObject *source_writable(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    return (PyObject *)fr_op_new((IoObject *)self, FR_OP_WRITABLE);
}

static void clear_seen(PyObject *self, enum fr_direction dir)
{
    struct fr_io *io = ((IoObject *)self)->io;
    if (io) {
        /* relaxed: see fr_io_attempt() */
        fr_io_clear_all(io, atomic_load_explicit(&((IoObject *)self)->seen[dir], memory_order_relaxed), dir);
    }
}

static PyObject *source_clear_readable(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    clear_seen(self, FR_DIR_READ);
    Py_RETURN_NONE;
}

static PyObject *source_clear_writable(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    clear_seen(self, FR_DIR_WRITE);
    Py_RETURN_NONE;
}

/* The first of `args`: 0 to read, 1 to write; -1 with an exception. */
static int direction_argument(const char *method, PyObject *const *args, Py_ssize_t nargs, Py_ssize_t least)
{
    if (nargs < least) {
        PyErr_Format(PyExc_TypeError, "%s() takes at least %zd arguments", method, least);
        return -1;
    }
    long dir = PyLong_AsLong(args[0]);
    if (dir == -1 && PyErr_Occurred()) {
        return -1;
    }
    if (dir != FR_DIR_READ && dir != FR_DIR_WRITE) {
        PyErr_SetString(PyExc_ValueError, "the direction must be 0, to read, or 1, to write");
        return -1;
    }
    return (int)dir;
}

static PyObject *source_wait_ready(PyObject *self, PyObject *direction)
{
    int dir = direction_argument("wait_ready", &direction, 1, 1);
    if (dir < 0) {
        return NULL;
    }
    return (PyObject *)fr_op_new((IoObject *)self, dir == FR_DIR_READ ? FR_OP_READ_READY : FR_OP_WRITE_READY);
}

static PyObject *source_clear_ready(PyObject *self, PyObject *const *args, Py_ssize_t nargs)
{
    int dir = direction_argument("clear_ready", args, nargs, 2);
    unsigned long seen = dir < 0 ? 0 : PyLong_AsUnsignedLong(args[1]);
    if (PyErr_Occurred()) {
        return NULL;
    }
    if (((IoObject *)self)->io) {
        fr_io_clear_all(((IoObject *)self)->io, (uint32_t)seen, (enum fr_direction)dir);
    }
    Py_RETURN_NONE;
}

/* After a failed call by the user: whether it would have had to wait. The exception is gone then. */
static bool would_block(struct fr_module *mod)
{
    bool waits = PyErr_ExceptionMatches(PyExc_BlockingIOError) || PyErr_ExceptionMatches(mod->exc_would_block);
    if (waits) {
        PyErr_Clear();
    }
    return waits;
}

/* The user's code runs with the claim and the descriptor held, and no lock: whatever it does to this object is met by
 * RuntimeError, or by a close that takes effect afterwards. */
static PyObject *source_try_io(PyObject *op, PyObject *const *args, Py_ssize_t nargs)
{
    IoObject *self = (IoObject *)op;
    int dir = direction_argument("try_io", args, nargs, 2);
    if (dir < 0 || !self->io) {
        return dir < 0 ? NULL : fr_io_raise_closed();
    }
    uint32_t claim = dir == FR_DIR_READ ? FR_IO_CLAIM_READ : FR_IO_CLAIM_WRITE;
    int err = fr_io_begin(self->io, claim);
    if (err) {
        return fr_io_raise_begin(self->mod, (enum fr_direction)dir, err);
    }
    uint32_t ready = fr_io_ready(self->io);
    bool waits = !fr_io_is_ready(ready, (enum fr_direction)dir);
    PyObject *result = waits ? NULL : PyObject_Vectorcall(args[1], args + 2, (size_t)nargs - 2, NULL);
    if (!result && !waits && would_block(self->mod)) {
        fr_io_clear_all(self->io, ready, (enum fr_direction)dir);
        waits = true;
    }
    fr_io_end(self->io, claim);
    return waits ? fr_io_raise_would_block(self->mod, (enum fr_direction)dir) : result;
}

static PyObject *source_with_fd(PyObject *op, PyObject *const *args, Py_ssize_t nargs)
{
    IoObject *self = (IoObject *)op;
    if (nargs < 1) {
        PyErr_SetString(PyExc_TypeError, "with_fd() takes a function");
        return NULL;
    }
    if (!self->io || fr_io_hold(self->io)) {
        return fr_io_raise_closed();
    }
    PyObject *fd = PyLong_FromLong(self->io->fd);
    PyObject *call = fd ? PyTuple_New(nargs) : NULL;
    PyObject *result = NULL;
    if (call) {
        PyTuple_SET_ITEM(call, 0, Py_NewRef(fd));
        for (Py_ssize_t i = 1; i < nargs; i++) {
            PyTuple_SET_ITEM(call, i, Py_NewRef(args[i]));
        }
        result = PyObject_Call(args[0], call, NULL);
    }
    Py_XDECREF(call);
    Py_XDECREF(fd);
    fr_io_end(self->io, 0);
    return result;
}

static PyObject *source_fileno(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    return PyLong_FromLong(is_closed((IoObject *)self) ? -1 : ((IoObject *)self)->io->fd);
}

static PyObject *source_get_closed(PyObject *self, void *Py_UNUSED(closure))
{
    return PyBool_FromLong(is_closed((IoObject *)self));
}

static PyObject *source_close(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    if (((IoObject *)self)->io) {
        fr_io_close(((IoObject *)self)->io);
    }
    Py_RETURN_NONE;
}

static PyObject *source_detach(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    if (is_closed((IoObject *)self)) {
        return fr_io_raise_closed();
    }
    int fd = fr_io_detach(((IoObject *)self)->io);
    if (fd < 0) {
        PyErr_SetString(PyExc_RuntimeError, "detach() while an operation is in progress on this stream");
        return NULL;
    }
    return PyLong_FromLong(fd);
}

static void raise_open(int fd, int err)
{
    if (err == -EPERM) {
        PyObject *text =
            PyUnicode_FromFormat("descriptor %d is of a kind that cannot be waited for (a regular file or a "
                                 "directory is always ready); read it on the blocking pool instead",
                                 fd);
        PyObject *error = text ? PyObject_CallFunction(PyExc_OSError, "iO", EPERM, text) : NULL;
        Py_XDECREF(text);
        if (error) {
            PyErr_SetRaisedException(error);
        }
        return;
    }
    errno = -err;
    PyErr_SetFromErrno(PyExc_OSError);
}

static int make_non_blocking(int fd)
{
    int flags = fcntl(fd, F_GETFL);
    if (flags < 0 || (!(flags & O_NONBLOCK) && fcntl(fd, F_SETFL, flags | O_NONBLOCK))) {
        PyErr_SetFromErrno(PyExc_OSError);
        return -1;
    }
    return 0;
}

/* A terminal gives a line at a time, and datagram sockets a datagram, however much more there is. */
static bool is_byte_stream(int fd)
{
    int type = 0;
    socklen_t size = sizeof type;
    return getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &size) == 0 && type == SOCK_STREAM;
}

static int source_init(PyObject *op, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"", "assume_ready", "set_nonblocking", NULL};
    IoObject *self = (IoObject *)op;
    PyObject *module = PyType_GetModuleByDef(Py_TYPE(op), &fr_module_def);
    int fd, err, assume_ready = true, set_nonblocking = true;
    if (!module ||
        !PyArg_ParseTupleAndKeywords(args, kwargs, "i|$pp:IoSource", names, &fd, &assume_ready, &set_nonblocking)) {
        return -1;
    }
    struct fr_visit visit;
    if (atomic_exchange(&self->made, true)) {
        PyErr_SetString(PyExc_RuntimeError, "__init__ was called twice");
        return -1;
    }
    self->mod = PyModule_GetState(module);
    if (!fr_visit_current(self->mod, &visit)) {
        atomic_store(&self->made, false);
        return -1;
    }
    self->byte_stream = is_byte_stream(fd);
    uint32_t ready = assume_ready ? FR_READY_READ | FR_READY_WRITE : 0;
    if (!visit.rt->io) {
        PyErr_SetString(PyExc_RuntimeError, "this runtime was built without I/O; call Builder.enable_io() or "
                                            "enable_all()");
    } else if (!set_nonblocking || !make_non_blocking(fd)) {
        if ((err = fr_io_open(&visit.rt->driver, fd, ready, &self->io))) {
            raise_open(fd, err);
        }
    }
    fr_visit_end(&visit);
    if (!self->io) {
        atomic_store(&self->made, false);
    }
    return self->io ? 0 : -1;
}

static void source_dealloc(PyObject *self)
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

static PyMethodDef source_methods[] = {
    {"readable", source_readable, METH_NOARGS, "readable($self)\n--\n\nWait until a read may succeed. Cancel safe."},
    {"writable", source_writable, METH_NOARGS, "writable($self)\n--\n\nWait until a write may succeed. Cancel safe."},
    {"clear_readable", source_clear_readable, METH_NOARGS,
     "clear_readable($self)\n--\n\nForget that it was readable: a read has said EAGAIN."},
    {"clear_writable", source_clear_writable, METH_NOARGS,
     "clear_writable($self)\n--\n\nForget that it was writable: a write has said EAGAIN."},
    {"wait_ready", source_wait_ready, METH_O,
     "wait_ready($self, direction, /)\n--\n\nWait until it is ready to read (0) or write (1): the readiness, for "
     "clear_ready(). Cancel safe."},
    {"clear_ready", FASTCALL(source_clear_ready),
     "clear_ready($self, direction, ready, /)\n--\n\nForget that readiness, unless something happened since."},
    {"try_io", FASTCALL(source_try_io),
     "try_io($self, direction, fn, /, *args)\n--\n\nThe result of fn(*args) if it is ready to read (0) or write "
     "(1).\n\n"
     "A BlockingIOError from it clears the readiness; then, and without any, WouldBlock."},
    {"with_fd", FASTCALL(source_with_fd),
     "with_fd($self, fn, /, *args)\n--\n\nThe result of fn(fd, *args); the descriptor stays open meanwhile."},
    {"fileno", source_fileno, METH_NOARGS, "fileno($self)\n--\n\nThe descriptor, -1 once closed."},
    {"close", source_close, METH_NOARGS,
     "close($self)\n--\n\nClose the descriptor; operations in progress raise OSError. Idempotent, any thread."},
    {"detach", source_detach, METH_NOARGS, "detach($self)\n--\n\nGive the descriptor back, unregistered."},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef source_getset[] = {
    {"closed", source_get_closed, NULL, "Whether close() was called.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

PyDoc_STRVAR(
    source_doc,
    "IoSource(fd, /, *, assume_ready=True, set_nonblocking=True)\n--\n\n"
    "A descriptor registered with the current runtime's driver, which owns it from here on.\n\n"
    "What sockets are made of, and what a type of your own may derive from. Make the call; if it would block,\n"
    "wait, and make it again. `wait_ready(direction)` (0: to read, 1: to write) gives the readiness, for\n"
    "`clear_ready(direction, readiness)` after a call that would have blocked: what came since is not "
    "forgotten.\n"
    "`readable()`, `writable()` and `clear_readable()`, `clear_writable()` keep it themselves. `try_io(direction,\n"
    "fn, *args)` calls `fn` if it is ready, `with_fd(fn, *args)` calls `fn(fd, *args)`; the descriptor stays\n"
    "open meanwhile, whoever closes this. `close()`, or the garbage collector, closes it; `detach()` gives it\n"
    "back.\n\n"
    "With `assume_ready=False` nothing is ready before the kernel says so: for what is never read. It is made\n"
    "non-blocking unless `set_nonblocking=False`.\n\n"
    "Errors: `OSError` (`EPERM`: a kind that is always ready, as regular files; `EBADF`), and the descriptor\n"
    "is still yours then; `RuntimeError` outside a runtime, and for a second task that waits for the same\n"
    "direction; `OSError` for who waits when it is closed.\n"
    "Cancel safety: waiting loses nothing. Thread safety: every method may be called from any thread, those\n"
    "that are awaited inside a task. Tokio: `PollEvented`.\n\n"
    "Example::\n\n"
    "    import os\n"
    "    import freerun\n"
    "    from freerun import lowlevel\n\n"
    "    class Counter(lowlevel.IoSource):  # an eventfd\n"
    "        def __init__(self) -> None:\n"
    "            super().__init__(os.eventfd(0))\n\n"
    "        def add(self, n: int) -> None:\n"
    "            self.with_fd(os.eventfd_write, n)\n\n"
    "        async def take(self) -> int:\n"
    "            while True:\n"
    "                try:\n"
    "                    return self.with_fd(os.eventfd_read)\n"
    "                except BlockingIOError:\n"
    "                    self.clear_ready(0, await self.wait_ready(0))\n\n"
    "    async def main() -> int:\n"
    "        counter = Counter()\n"
    "        taking = freerun.spawn(counter.take)\n"
    "        counter.add(2)\n"
    "        counter.add(3)\n"
    "        total = await taking\n"
    "        return total if total == 5 else total + await counter.take()\n\n"
    "    assert freerun.run(main) == 5\n");

static PyType_Slot source_slots[] = {
    {Py_tp_doc, (void *)source_doc},
    {Py_tp_new, PyType_GenericNew},
    {Py_tp_init, source_init},
    {Py_tp_dealloc, source_dealloc},
    {Py_tp_methods, source_methods},
    {Py_tp_getset, source_getset},
    {0, NULL},
};

#define IO_SPEC(title, slot_list)                          \
    {                                                      \
        .name = "freerun._core._native." title,            \
        .basicsize = sizeof(IoObject),                     \
        .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE, \
        .slots = slot_list,                                \
    }

static PyType_Spec source_spec = IO_SPEC("IoSource", source_slots);

/* ---- IoStream ---- */

static PyObject *stream_read(PyObject *self, PyObject *const *args, Py_ssize_t nargs)
{
    return (PyObject *)new_read(self, FR_OP_READ, "read", args, nargs);
}

static PyObject *stream_try_read(PyObject *self, PyObject *const *args, Py_ssize_t nargs)
{
    return fr_op_now(new_read(self, FR_OP_READ, "try_read", args, nargs));
}

static PyObject *stream_read_into(PyObject *self, PyObject *buffer)
{
    return (PyObject *)new_read_into(self, FR_OP_READ_INTO, buffer);
}

static PyObject *stream_try_read_into(PyObject *self, PyObject *buffer)
{
    return fr_op_now(new_read_into(self, FR_OP_READ_INTO, buffer));
}

static PyObject *stream_peek(PyObject *self, PyObject *const *args, Py_ssize_t nargs)
{
    return (PyObject *)new_peek(self, FR_OP_READ, "peek", args, nargs);
}

static PyObject *stream_write(PyObject *self, PyObject *data)
{
    return (PyObject *)new_write(self, FR_OP_WRITE, data);
}

static PyObject *stream_try_write(PyObject *self, PyObject *data)
{
    return fr_op_now(new_write(self, FR_OP_WRITE, data));
}

static PyObject *stream_write_all(PyObject *self, PyObject *data)
{
    return (PyObject *)new_write(self, FR_OP_WRITE_ALL, data);
}

static PyObject *stream_write_vectored(PyObject *self, PyObject *buffers)
{
    return (PyObject *)new_write_vectored(self, buffers);
}

static PyObject *stream_try_write_vectored(PyObject *self, PyObject *buffers)
{
    return fr_op_now(new_write_vectored(self, buffers));
}

static PyMethodDef stream_methods[] = {
    {"read", FASTCALL(stream_read),
     "read($self, n=65536, /)\n--\n\nUp to n bytes; b\"\" at the end of the stream. Cancel safe."},
    {"try_read", FASTCALL(stream_try_read),
     "try_read($self, n=65536, /)\n--\n\nAs read(), without waiting: WouldBlock if there is nothing."},
    {"read_into", stream_read_into, METH_O,
     "read_into($self, buf, /)\n--\n\nRead into a writable buffer: how many bytes; 0 at the end of the stream. Cancel "
     "safe."},
    {"try_read_into", stream_try_read_into, METH_O,
     "try_read_into($self, buf, /)\n--\n\nAs read_into(), without waiting: WouldBlock if there is nothing."},
    {"peek", FASTCALL(stream_peek),
     "peek($self, n=65536, /)\n--\n\nAs read(), but the bytes stay to be read again. Cancel safe."},
    {"write", stream_write, METH_O, "write($self, data, /)\n--\n\nWrite some of data; how much. Cancel safe."},
    {"try_write", stream_try_write, METH_O,
     "try_write($self, data, /)\n--\n\nAs write(), without waiting: WouldBlock if there is no room."},
    {"write_all", stream_write_all, METH_O,
     "write_all($self, data, /)\n--\n\nWrite all of data. Not cancel safe: part of it may have been written."},
    {"write_vectored", stream_write_vectored, METH_O,
     "write_vectored($self, buffers, /)\n--\n\nWrite some of the buffers, one after the other, in one system call: how "
     "many bytes in all. Cancel safe."},
    {"try_write_vectored", stream_try_write_vectored, METH_O,
     "try_write_vectored($self, buffers, /)\n--\n\nAs write_vectored(), without waiting: WouldBlock if there is no "
     "room."},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot stream_slots[] = {
    {Py_tp_doc, "A descriptor that carries a stream of bytes: a socket, a pipe, a terminal."},
    {Py_tp_dealloc, source_dealloc},
    {Py_tp_methods, stream_methods},
    {0, NULL},
};

static PyType_Spec stream_spec = IO_SPEC("IoStream", stream_slots);

/* ---- IoDatagram ---- */

static PyObject *datagram_recv(PyObject *self, PyObject *const *args, Py_ssize_t nargs)
{
    return (PyObject *)as_datagram(new_read(self, FR_OP_READ, "recv", args, nargs));
}

static PyObject *datagram_try_recv(PyObject *self, PyObject *const *args, Py_ssize_t nargs)
{
    return fr_op_now(as_datagram(new_read(self, FR_OP_READ, "try_recv", args, nargs)));
}

static PyObject *datagram_recv_into(PyObject *self, PyObject *buffer)
{
    return (PyObject *)as_datagram(new_read_into(self, FR_OP_READ_INTO, buffer));
}

static PyObject *datagram_recv_from(PyObject *self, PyObject *const *args, Py_ssize_t nargs)
{
    return (PyObject *)as_datagram(new_read(self, FR_OP_RECV_FROM, "recv_from", args, nargs));
}

static PyObject *datagram_try_recv_from(PyObject *self, PyObject *const *args, Py_ssize_t nargs)
{
    return fr_op_now(as_datagram(new_read(self, FR_OP_RECV_FROM, "try_recv_from", args, nargs)));
}

static PyObject *datagram_recv_from_into(PyObject *self, PyObject *buffer)
{
    return (PyObject *)as_datagram(new_read_into(self, FR_OP_RECV_FROM_INTO, buffer));
}

static PyObject *datagram_peek(PyObject *self, PyObject *const *args, Py_ssize_t nargs)
{
    return (PyObject *)as_datagram(new_peek(self, FR_OP_READ, "peek", args, nargs));
}

static PyObject *datagram_peek_from(PyObject *self, PyObject *const *args, Py_ssize_t nargs)
{
    return (PyObject *)as_datagram(new_peek(self, FR_OP_RECV_FROM, "peek_from", args, nargs));
}

static PyObject *datagram_send(PyObject *self, PyObject *data)
{
    return (PyObject *)as_datagram(new_write(self, FR_OP_WRITE, data));
}

static PyObject *datagram_try_send(PyObject *self, PyObject *data)
{
    return fr_op_now(as_datagram(new_write(self, FR_OP_WRITE, data)));
}

static PyObject *datagram_send_raw(PyObject *self, PyObject *const *args, Py_ssize_t nargs)
{
    return (PyObject *)new_send_to(self, args, nargs);
}

static PyObject *datagram_try_send_raw(PyObject *self, PyObject *const *args, Py_ssize_t nargs)
{
    return fr_op_now(new_send_to(self, args, nargs));
}

static PyMethodDef datagram_methods[] = {
    {"recv", FASTCALL(datagram_recv),
     "recv($self, n=65536, /)\n--\n\nOne datagram; what is beyond n bytes of it is lost. Cancel safe."},
    {"try_recv", FASTCALL(datagram_try_recv),
     "try_recv($self, n=65536, /)\n--\n\nAs recv(), without waiting: WouldBlock if there is none."},
    {"recv_into", datagram_recv_into, METH_O,
     "recv_into($self, buf, /)\n--\n\nOne datagram into a writable buffer: how many bytes. Cancel safe."},
    {"recv_from", FASTCALL(datagram_recv_from),
     "recv_from($self, n=65536, /)\n--\n\nOne datagram and its sender's address. Cancel safe."},
    {"try_recv_from", FASTCALL(datagram_try_recv_from),
     "try_recv_from($self, n=65536, /)\n--\n\nAs recv_from(), without waiting: WouldBlock if there is none."},
    {"recv_from_into", datagram_recv_from_into, METH_O,
     "recv_from_into($self, buf, /)\n--\n\nOne datagram into a writable buffer: how many bytes, and its sender's "
     "address. "
     "Cancel safe."},
    {"peek", FASTCALL(datagram_peek),
     "peek($self, n=65536, /)\n--\n\nAs recv(), but the datagram stays to be received again. Cancel safe."},
    {"peek_from", FASTCALL(datagram_peek_from),
     "peek_from($self, n=65536, /)\n--\n\nAs recv_from(), but the datagram stays to be received again. Cancel safe."},
    {"send", datagram_send, METH_O,
     "send($self, data, /)\n--\n\nSend one datagram to the peer; how many bytes. Cancel safe."},
    {"try_send", datagram_try_send, METH_O,
     "try_send($self, data, /)\n--\n\nAs send(), without waiting: WouldBlock if there is no room."},
    {"_send_to", FASTCALL(datagram_send_raw),
     "_send_to($self, data, addr, /)\n--\n\nSend one datagram to a numeric address or a path. Cancel safe."},
    {"_try_send_to", FASTCALL(datagram_try_send_raw),
     "_try_send_to($self, data, addr, /)\n--\n\nAs _send_to(), without waiting: WouldBlock if there is no room."},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot datagram_slots[] = {
    {Py_tp_doc, "A socket that carries datagrams."},
    {Py_tp_dealloc, source_dealloc},
    {Py_tp_methods, datagram_methods},
    {0, NULL},
};

static PyType_Spec datagram_spec = IO_SPEC("IoDatagram", datagram_slots);

/* ---- IoAcceptor ---- */

static PyObject *acceptor_accept(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    return (PyObject *)fr_op_new((IoObject *)self, FR_OP_ACCEPT);
}

static PyObject *acceptor_try_accept(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    return fr_op_now(fr_op_new((IoObject *)self, FR_OP_ACCEPT));
}

static PyMethodDef acceptor_methods[] = {
    {"accept", acceptor_accept, METH_NOARGS,
     "accept($self)\n--\n\nThe next connection: its descriptor, non-blocking, and its peer's address. Cancel safe."},
    {"try_accept", acceptor_try_accept, METH_NOARGS,
     "try_accept($self)\n--\n\nAs accept(), without waiting: WouldBlock if there is none."},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot acceptor_slots[] = {
    {Py_tp_doc, "A socket that takes connections."},
    {Py_tp_dealloc, source_dealloc},
    {Py_tp_methods, acceptor_methods},
    {0, NULL},
};

static PyType_Spec acceptor_spec = IO_SPEC("IoAcceptor", acceptor_slots);

/* ---- the module ---- */

static int add_kind(struct fr_module *mod, PyType_Spec *spec, const char *name)
{
    PyObject *type = PyType_FromModuleAndSpec(mod->module, spec, (PyObject *)mod->io_type);
    int result = type ? PyModule_AddObjectRef(mod->module, name, type) : -1;
    Py_XDECREF(type); /* the module keeps it */
    return result;
}

int fr_io_add_types(struct fr_module *mod)
{
    return fr_module_add_type(mod, &mod->io_type, &source_spec, "IoSource") ||
                   fr_module_add_type(mod, &mod->io_op_type, &fr_io_op_spec, NULL) ||
                   add_kind(mod, &stream_spec, "IoStream") || add_kind(mod, &datagram_spec, "IoDatagram") ||
                   add_kind(mod, &acceptor_spec, "IoAcceptor")
               ? -1
               : 0;
}
