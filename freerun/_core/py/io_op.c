/* io_op: one operation on a descriptor, as a leaf. */
#include <errno.h>

#include "io.h"

static uint32_t claim_of(const OpObject *op)
{
    return fr_op_direction(op) == FR_DIR_READ ? FR_IO_CLAIM_READ : FR_IO_CLAIM_WRITE;
}

/* ---- errors ---- */

static PyObject *raise_errno(int err)
{
    errno = err;
    return PyErr_SetFromErrno(PyExc_OSError);
}

PyObject *fr_io_raise_closed(void)
{
    PyObject *error = PyObject_CallFunction(PyExc_OSError, "is", EBADF, "the stream is closed");
    if (error) {
        PyErr_SetRaisedException(error);
    }
    return NULL;
}

PyObject *fr_io_raise_begin(struct fr_module *mod, enum fr_direction dir, int err)
{
    if (err == -EBADF) {
        return fr_io_raise_closed();
    }
    if (err == -ESHUTDOWN) {
        PyErr_SetString(mod->exc_shutdown, "the runtime that this stream was made in has been shut down");
        return NULL;
    }
    PyErr_Format(PyExc_RuntimeError,
                 "another task is already %s this stream; one reader and one writer at a time: split() it, or put a "
                 "lock around it",
                 dir == FR_DIR_READ ? "reading from" : "writing to");
    return NULL;
}

/* The same in the words of who accepts, or of datagrams. */
static PyObject *raise_begin(OpObject *op, int err)
{
    enum fr_direction dir = fr_op_direction(op);
    if (err == -EBUSY && op->kind == FR_OP_ACCEPT) {
        PyErr_SetString(PyExc_RuntimeError, "another task is already accepting from this listener; let one task "
                                            "accept, or put a lock around it");
    } else if (err == -EBUSY && op->datagram) {
        PyErr_Format(PyExc_RuntimeError,
                     "another task is already %s this socket; let one task do it, or put a lock around it",
                     dir == FR_DIR_READ ? "receiving from" : "sending to");
    } else {
        fr_io_raise_begin(op->source->mod, dir, err);
    }
    return NULL;
}

PyObject *fr_io_raise_would_block(struct fr_module *mod, enum fr_direction dir)
{
    PyErr_Format(mod->exc_would_block, "%s would have to wait", dir == FR_DIR_READ ? "reading" : "writing");
    return NULL;
}

/* ---- waiting ---- */

/* Takes the waiter out again, whoever woke us. */
static void unwait(OpObject *op)
{
    /* acquire: false means that nobody reads the waiter any more; pairs with take_waiter_locked() [W1] */
    if (atomic_load_explicit(&op->waiter.linked, memory_order_acquire) &&
        fr_io_unwait(op->source->io, fr_op_direction(op), &op->waiter)) {
        fr_task_unref(op->waiter.task);
    }
}

static bool wait_for_edge(OpObject *op, struct fr_task *task)
{
    fr_leaf_ref(task);
    op->waiter.task = task;
    if (fr_io_wait(op->source->io, fr_op_direction(op), &op->waiter)) {
        return true;
    }
    fr_task_unref(task);
    return false;
}

/* ---- one step ---- */

void fr_op_drop_data(OpObject *op)
{
    op->data = NULL;
    Py_CLEAR(op->bytes);
    if (op->view) {
        PyBuffer_Release(op->view);
        PyMem_Free(op->view);
        op->view = NULL;
    }
    if (op->extra) {
        for (int i = 0; i < op->extra->buffers; i++) {
            PyBuffer_Release(&op->extra->view[i]);
        }
        PyMem_Free(op->extra);
        op->extra = NULL;
    }
}

static bool has_data(const OpObject *op)
{
    return op->bytes || op->view || op->extra;
}

/* The buffer is free again now, not when another thread gets to deallocating the operation. */
static void finish(OpObject *op)
{
    if (has_data(op)) {
        op->over = true;
        fr_op_drop_data(op);
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

static PyObject *raise_over(void)
{
    PyErr_SetString(PyExc_RuntimeError, "this operation is over; call the method again for another one");
    return NULL;
}

static PyObject *step(OpObject *op, struct fr_task *task)
{
    struct fr_io *io = op->source->io;
    enum fr_direction dir = fr_op_direction(op);
    /* acquire: see unwait() */
    if (atomic_load_explicit(&op->waiter.linked, memory_order_acquire) && !fr_leaf_may_take(op->waiter.task, task)) {
        return NULL;
    }
    if (op->over) {
        return raise_over();
    }
    unwait(op);
    if (!fr_leaf_spend()) {
        return fr_leaf_yield();
    }
    int err;
    while ((err = begin(op)) == 0) {
        uint32_t ready = fr_io_ready(io);
        if (fr_io_is_ready(ready, dir)) {
            int failed = 0;
            PyObject *result = fr_io_attempt(op, ready, &failed);
            if (result) {
                finish(op);
                return fr_leaf_return(result);
            }
            if (failed != -EAGAIN) {
                finish(op);
                return failed ? raise_errno(-failed) : NULL;
            }
            fr_io_clear_all(io, ready, dir);
        }
        fr_io_end(io, 0);
        if (wait_for_edge(op, task)) {
            return fr_leaf_park();
        }
    }
    return raise_begin(op, err);
}

PyObject *fr_op_now(OpObject *op)
{
    if (!op) {
        return NULL;
    }
    struct fr_module *mod = op->source->mod;
    struct fr_io *io = op->source->io;
    enum fr_direction dir = fr_op_direction(op);
    PyObject *result = NULL;
    int err = begin(op);
    if (err) {
        raise_begin(op, err);
    } else {
        uint32_t ready = fr_io_ready(io);
        result = fr_io_attempt(op, ready, &err);
        if (err == -EAGAIN) {
            fr_io_clear_all(io, ready, dir);
        }
        finish(op);
        if (err == -EAGAIN) {
            fr_io_raise_would_block(mod, dir);
        } else if (err) {
            raise_errno(-err);
        }
    }
    Py_DECREF(op);
    return result;
}

/* ---- the type ---- */

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
    if (has_data(op)) { /* as in finish() */
        op->over = true;
        fr_op_drop_data(op);
    }
}

FR_LEAF_METHODS(op, op_let_go);

static void op_dealloc(PyObject *self)
{
    OpObject *op = (OpObject *)self;
    op_let_go(self);
    fr_op_drop_data(op);
    Py_DECREF(op->source);
    fr_dealloc(self, FR_FREE_IO_OP);
}

static PyType_Slot op_slots[] = {
    {Py_tp_doc, "What the methods of IoSource and its kinds return."},
    {Py_tp_dealloc, op_dealloc},
    {Py_tp_methods, op_methods},
    FR_LEAF_SLOTS(op_iternext),
    {0, NULL},
};

PyType_Spec fr_io_op_spec = {
    .name = "freerun._core._native.IoOperation",
    .basicsize = sizeof(OpObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = op_slots,
};

OpObject *fr_op_new(IoObject *source, enum fr_op_kind kind)
{
    if (!source->io) {
        fr_io_raise_closed();
        return NULL;
    }
    OpObject *op = (OpObject *)fr_alloc(source->mod->io_op_type, FR_FREE_IO_OP);
    if (op) {
        op->source = (IoObject *)Py_NewRef(source);
        op->waiter = (struct fr_waiter){.task = NULL};
        op->kind = (uint8_t)kind;
        op->datagram = op->claimed = op->over = false;
        atomic_init(&op->stepping, false);
        op->flags = 0;
        op->size = op->done = 0;
        op->data = NULL;
        op->bytes = NULL;
        op->view = NULL;
        op->extra = NULL;
    }
    return op;
}
