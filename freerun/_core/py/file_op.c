/* file_op: one request of a file to io_uring, as a task. The driver says that it is done by waking the task, whose poll,
 * on a worker, makes the result.
 *
 * THREADS    fr_file_request(): any attached thread. The rest: who holds the task's RUNNING; finish_file() sets `done`.
 * STATE      attached; detached around the system call.
 * OWNERSHIP  the task holds the FileOpObject as its `coro`, that the buffer: both live until the kernel has said that it
 *            is done with it, whoever aborts or drops what [F2].
 * INVARIANTS F2 a task whose request is under way is neither completed nor closed.
 *            F3 with FR_DUTY_MUST the request is made again until all is written, or an error is final: io_uring cancels
 *               the requests of a thread that exits, and those that a signal hit.
 *            F4 a read that ends after some bytes gives them, also if it was cancelled: the file's position is behind
 *               them.
 * SHUTDOWN   reads are cancelled with their task, writes are waited for up to the deadline. What is under way then leaves
 *            the runtime dirty: its memory and the ring stay.
 * PROVED BY  tests/fs/
 */
#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "runtime.h"

/* PIECE_MOST: of a read, for the reason that file_read.c gives. The kernel's threads are no more preemptible than ours. */
enum { INLINE_MOST = 65536, PIECE_MOST = 1 << 18, REQUEST_MOST = 1 << 30 };

typedef struct {
    PyObject_HEAD
    struct fr_file_op op;
    PyObject *bytes; /* what is read into, or written; a path */
    PyObject *out;   /* STAT: the struct statx */
    PyObject *name;  /* for errors: str or NULL */
    PyObject *wrap, *end;
    Py_ssize_t size, done; /* READ, WRITE: of the bytes */
    int64_t offset;        /* READ, WRITE: where it begins; -1: in a stream */
    int fd;
    uint32_t flags, mode;
    uint8_t kind;
    bool asked_to_stop;
} FileOpObject;

/* A read that names no position is of a pipe or the like: one request, since the rest may never come. */
static bool in_pieces(FileOpObject *self)
{
    return self->kind == FR_FILE_READ && self->offset >= 0;
}

static Py_ssize_t next_length(FileOpObject *self)
{
    return Py_MIN(self->size - self->done, in_pieces(self) ? PIECE_MOST : REQUEST_MOST);
}

static struct fr_file_request request_of(FileOpObject *self)
{
    Py_ssize_t length = next_length(self);
    return (struct fr_file_request){
        .address = self->bytes ? PyBytes_AS_STRING(self->bytes) + self->done : NULL,
        .second = self->out ? PyBytes_AS_STRING(self->out) : NULL,
        .length = self->kind == FR_FILE_STAT ? STATX_BASIC_STATS : (uint32_t)length,
        .offset = self->offset < 0 ? -1 : self->offset + self->done,
        .flags = self->flags,
        .mode = self->mode,
        .fd = self->fd,
        .kind = self->kind,
        /* Tried at once, an open would be O_NONBLOCK: of a FIFO that nobody else has open it would be none. */
        .async = length > INLINE_MOST || self->kind == FR_FILE_OPEN,
    };
}

static int submit(struct fr_task *task, bool again)
{
    struct fr_runtime *rt = task->rt;
    FileOpObject *self = (FileOpObject *)task->coro;
    struct fr_file_request request = request_of(self);
    request.again = again;
    self->op.task = task;
    atomic_store_explicit(&self->op.done, false, memory_order_relaxed); /* nobody else knows it yet */
    fr_task_ref(task);
    atomic_fetch_add_explicit(&rt->blocking_running, 1, memory_order_relaxed); /* a paused clock does not jump */
    PyThreadState *state = PyEval_SaveThread();
    int err = fr_driver_submit_file(&rt->driver, &self->op, &request);
    PyEval_RestoreThread(state);
    if (err) {
        atomic_store_explicit(&self->op.done, true, memory_order_relaxed);         /* the same */
        atomic_fetch_sub_explicit(&rt->blocking_running, 1, memory_order_relaxed); /* it never ran */
        fr_task_unref(task);
    }
    return err;
}

int fr_file_submit(struct fr_task *task)
{
    return submit(task, false);
}

/* ---- the result ---- */

static PyObject *error_of(FileOpObject *self, int err)
{
    errno = err;
    if (self->name) {
        PyErr_SetFromErrnoWithFilenameObject(PyExc_OSError, self->name);
    } else {
        PyErr_SetFromErrno(PyExc_OSError);
    }
    if (self->kind == FR_FILE_WRITE) {
        PyObject *error = PyErr_GetRaisedException();
        PyObject *note = PyUnicode_FromFormat("%zd of %zd bytes were written", self->done, self->size);
        PyObject *done = note ? PyObject_CallMethod(error, "add_note", "O", note) : NULL;
        Py_XDECREF(note);
        Py_XDECREF(done);
        PyErr_Clear();
        PyErr_SetRaisedException(error);
    }
    return NULL;
}

/* Nobody else knows the bytes yet. They were made on another thread, so that _PyBytes_Resize() would not have them. */
static PyObject *what_was_read(FileOpObject *self, int32_t result)
{
    if (result < self->size / 2) {
        return PyBytes_FromStringAndSize(PyBytes_AS_STRING(self->bytes), result);
    }
    PyObject *bytes = self->bytes;
    self->bytes = NULL;
    Py_SET_SIZE((PyVarObject *)bytes, result);
    PyBytes_AS_STRING(bytes)[result] = 0;
    return bytes;
}

static PyObject *value_of(FileOpObject *self, int32_t result)
{
    switch (self->kind) {
    case FR_FILE_READ:
        return what_was_read(self, result);
    case FR_FILE_OPEN:
        return PyLong_FromLong(result);
    case FR_FILE_STAT:
        return Py_NewRef(self->out);
    default:
        return Py_NewRef(Py_None);
    }
}

static PyObject *result_of(FileOpObject *self, int32_t result)
{
    PyObject *value = result < 0 ? error_of(self, -result) : value_of(self, result);
    if (value && self->wrap) {
        Py_SETREF(value, PyObject_CallOneArg(self->wrap, value));
    }
    return value;
}

static void call_end(FileOpObject *self)
{
    if (!self->end) {
        return;
    }
    PyObject *error = PyErr_GetRaisedException();
    PyObject *done = PyObject_CallNoArgs(self->end);
    if (!done) {
        PyErr_WriteUnraisable(self->end);
    }
    Py_XDECREF(done);
    PyErr_SetRaisedException(error);
}

/* ---- one step ---- */

/* What was read is given out, whatever came then: it is gone from the file, and the next read says what is wrong. [F4] */
static bool read_is_final(FileOpObject *self, int32_t *result)
{
    bool all = !in_pieces(self) || *result < next_length(self) || self->asked_to_stop;
    self->done += Py_MAX(*result, 0);
    *result = (int32_t)self->done; /* it fits, see take_data() */
    return all || self->done == self->size;
}

static bool is_final(struct fr_task *task, FileOpObject *self, int32_t *result)
{
    bool again = *result == -EINTR || *result == -ECANCELED;
    if (self->kind == FR_FILE_READ && (*result > 0 || (self->done > 0 && (!again || self->asked_to_stop)))) {
        return read_is_final(self, result);
    }
    if (self->kind == FR_FILE_WRITE && *result > 0) {
        self->done += *result;
        return self->done == self->size;
    }
    if (self->kind == FR_FILE_WRITE && *result == 0) {
        *result = -EIO; /* it takes nothing: for ever, probably */
    }
    return !again || (self->asked_to_stop && task->duty != FR_DUTY_MUST);
}

static enum fr_poll_result wait_on(struct fr_task *task)
{
    return fr_state_end_poll_spare(&task->state, fr_task_take_spare(task)) ? FR_POLL_REQUEUE : FR_POLL_DONE;
}

/* The file's position is the kernel's to keep: whoever uses the descriptor otherwise finds it where it should be. */
static void move_position(FileOpObject *self)
{
    if (self->offset >= 0 && self->done > 0) {
        lseek(self->fd, self->offset + self->done, SEEK_SET); /* it could be asked where it was: it has one */
    }
}

static void finish(struct fr_task *task, FileOpObject *self, int32_t result)
{
    move_position(self);
    bool cancelled = self->asked_to_stop && (result == -ECANCELED || result == -EINTR);
    PyObject *value = cancelled ? NULL : result_of(self, result);
    call_end(self);
    PyObject *error = PyErr_GetRaisedException();
    enum fr_outcome outcome = cancelled ? FR_OUT_CANCELLED : value ? FR_OUT_RETURNED : FR_OUT_RAISED;
    fr_task_complete(task, outcome, outcome == FR_OUT_RAISED ? error : value);
}

/* Woken: it is done, or somebody aborts it. */
enum fr_poll_result fr_file_poll(struct fr_task *task, uint64_t state)
{
    struct fr_runtime *rt = task->rt;
    FileOpObject *self = (FileOpObject *)task->coro;
    if (!fr_file_is_done(&self->op)) {
        if ((state & FR_CANCELLED) && task->duty != FR_DUTY_MUST && !self->asked_to_stop) {
            self->asked_to_stop = true;
            PyThreadState *attached = PyEval_SaveThread();
            fr_driver_cancel_file(&rt->driver, &self->op);
            PyEval_RestoreThread(attached);
        }
        return wait_on(task);
    }
    /* release: pairs with jump_clock() */
    atomic_fetch_sub_explicit(&rt->blocking_running, 1, memory_order_release);
    if ((state & FR_CANCELLED) && task->duty != FR_DUTY_MUST) {
        self->asked_to_stop = true; /* before the next piece */
    }
    int32_t result = self->op.result;
    if (!is_final(task, self, &result)) {
        int err = submit(task, true);
        if (!err) {
            return wait_on(task);
        }
        result = self->kind == FR_FILE_READ && self->done > 0 ? (int32_t)self->done : err; /* [F4] */
    }
    finish(task, self, result);
    return FR_POLL_DONE;
}

/* What the kernel has done, it has done, though no worker comes to it: an opened file has to be closed, and what was written
 * is not cancelled. What it is still at stays, and with it the runtime's memory: the kernel has its buffer. [F2] */
void fr_file_close(struct fr_task *task)
{
    enum fr_poll_result polled = fr_file_poll(task, fr_state_load(&task->state));
    while (polled == FR_POLL_REQUEUE) {
        polled = fr_file_poll(task, fr_task_take(task));
    }
}

/* ---- the type ---- */

static void file_op_dealloc(PyObject *op)
{
    FileOpObject *self = (FileOpObject *)op;
    PyTypeObject *type = Py_TYPE(op);
    Py_XDECREF(self->bytes);
    Py_XDECREF(self->out);
    Py_XDECREF(self->name);
    Py_XDECREF(self->wrap);
    Py_XDECREF(self->end);
    type->tp_free(op);
    Py_DECREF(type);
}

static PyType_Slot file_op_slots[] = {
    {Py_tp_doc, "A request of a file, under way."},
    {Py_tp_dealloc, file_op_dealloc},
    {0, NULL},
};

static PyType_Spec file_op_spec = {
    .name = "freerun._core._native.FileOperation",
    .basicsize = sizeof(FileOpObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = file_op_slots,
};

static int take_data(FileOpObject *self, PyObject *data)
{
    if (PyBytes_Check(data)) {
        self->bytes = Py_NewRef(data);
        self->size = self->kind == FR_FILE_WRITE ? PyBytes_GET_SIZE(data) : 0;
    } else if (data != Py_None) {
        self->size = PyLong_AsSsize_t(data);
        if (self->size <= 0 || self->size > INT32_MAX) {
            if (!PyErr_Occurred()) {
                PyErr_SetString(PyExc_ValueError, "argument 'data' must be positive, and below 2**31");
            }
            return -1;
        }
        self->bytes = PyBytes_FromStringAndSize(NULL, self->size);
        if (!self->bytes) {
            return -1;
        }
    }
    if (self->kind == FR_FILE_STAT && !(self->out = PyBytes_FromStringAndSize(NULL, sizeof(struct statx)))) {
        return -1;
    }
    return 0;
}

static FileOpObject *file_op_new(struct fr_module *mod, int kind, PyObject *data, PyObject *name, PyObject *wrap,
                                 PyObject *end)
{
    FileOpObject *self = (FileOpObject *)mod->file_op_type->tp_alloc(mod->file_op_type, 0); /* zeroed */
    if (!self) {
        return NULL;
    }
    self->kind = (uint8_t)kind;
    self->name = name == Py_None ? NULL : Py_NewRef(name);
    self->wrap = wrap == Py_None ? NULL : Py_NewRef(wrap);
    self->end = end == Py_None ? NULL : Py_NewRef(end);
    if (take_data(self, data)) {
        Py_CLEAR(self);
    }
    return self;
}

PyObject *fr_file_request(PyObject *module, PyObject *args)
{
    struct fr_module *mod = PyModule_GetState(module);
    int must, kind, fd;
    long long offset;
    unsigned int flags, mode;
    PyObject *data, *name, *wrap, *end;
    struct fr_visit visit;
    if (!PyArg_ParseTuple(args, "piiOLIIOOO", &must, &kind, &fd, &data, &offset, &flags, &mode, &name, &wrap, &end) ||
        !fr_visit_current(mod, &visit)) {
        return NULL;
    }
    PyObject *handle = NULL;
    if (kind < FR_FILE_READ || kind > FR_FILE_STAT) {
        PyErr_SetString(PyExc_ValueError, "argument 'kind' must be one of 0 to 4");
    } else if (!visit.rt->driver.poller.ring) {
        handle = Py_NewRef(Py_None);
    } else {
        FileOpObject *self = file_op_new(mod, kind, data, name, wrap, end);
        if (self) {
            self->fd = fd;
            self->offset = offset;
            self->flags = flags;
            self->mode = mode;
            handle = fr_task_spawn_file(visit.rt, (PyObject *)self, must ? FR_DUTY_MUST : FR_DUTY_LATE);
            Py_DECREF(self);
        }
    }
    fr_visit_end(&visit);
    return handle;
}

int fr_file_add_types(struct fr_module *mod)
{
    return fr_module_add_type(mod, &mod->file_op_type, &file_op_spec, NULL);
}
