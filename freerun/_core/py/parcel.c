/* parcel: what one interpreter hands to another. See isolated.h. */
#include <stdlib.h>
#include <unistd.h>

#include "isolated.h"

typedef struct {
    PyObject_HEAD
    struct fr_block *block;
} BlockObject;

typedef struct {
    PyObject_HEAD
    _Atomic(struct fr_parcel *) parcel; /* NULL: it was sent */
} ParcelObject;

/* ---- lenders ---- */

struct fr_lender *fr_lender_new(void)
{
    struct fr_lender *lender = calloc(1, sizeof *lender);
    if (lender) {
        atomic_init(&lender->refs, 1);
    }
    return lender;
}

static void lender_unref(struct fr_lender *lender)
{
    if (atomic_fetch_sub_explicit(&lender->refs, 1, memory_order_acq_rel) == 1) { /* pairs with itself */
        free(lender);
    }
}

static struct fr_block *take_returned(struct fr_lender *lender)
{
    fr_mutex_lock(&lender->lock);
    struct fr_block *returned = lender->returned;
    lender->returned = NULL;
    fr_mutex_unlock(&lender->lock);
    return returned;
}

static void release_returned(struct fr_lender *lender)
{
    struct fr_block *block = take_returned(lender);
    while (block) {
        struct fr_block *next = block->next;
        PyBuffer_Release(&block->view);
        free(block);
        lender_unref(lender);
        block = next;
    }
}

void fr_lender_drain(struct fr_module *mod)
{
    release_returned(mod->lender);
}

void fr_lender_end(struct fr_lender *lender)
{
    if (!lender) {
        return;
    }
    release_returned(lender);
    fr_mutex_lock(&lender->lock);
    lender->dead = true;
    fr_mutex_unlock(&lender->lock);
    lender_unref(lender);
}

/* ---- blocks ---- */

static void block_unref(struct fr_block *block)
{
    if (atomic_fetch_sub_explicit(&block->refs, 1, memory_order_acq_rel) != 1) { /* pairs with itself */
        return;
    }
    struct fr_lender *lender = block->lender;
    if (!lender) {
        free(block);
        return;
    }
    fr_mutex_lock(&lender->lock);
    if (!lender->dead) { /* else nobody can release it any more */
        block->next = lender->returned;
        lender->returned = block;
    }
    fr_mutex_unlock(&lender->lock);
}

/* `lender` NULL: a copy. */
static struct fr_block *block_new(PyObject *source, struct fr_lender *lender)
{
    Py_buffer view;
    if (PyObject_GetBuffer(source, &view, PyBUF_C_CONTIGUOUS)) {
        return NULL;
    }
    struct fr_block *block = malloc(sizeof *block + (lender ? 0 : (size_t)view.len));
    if (!block) {
        PyBuffer_Release(&view);
        PyErr_NoMemory();
        return NULL;
    }
    atomic_init(&block->refs, 1);
    block->readonly = view.readonly;
    block->size = view.len;
    block->lender = lender;
    if (lender) {
        block->view = view;
        block->bytes = view.buf;
        atomic_fetch_add_explicit(&lender->refs, 1, memory_order_relaxed); /* we hold one already */
    } else {
        block->bytes = (char *)(block + 1);
        memcpy(block->bytes, view.buf, (size_t)view.len);
        PyBuffer_Release(&view);
    }
    return block;
}

static int block_getbuffer(PyObject *self, Py_buffer *view, int flags)
{
    struct fr_block *block = ((BlockObject *)self)->block;
    return PyBuffer_FillInfo(view, self, block->bytes, block->size, block->readonly, flags);
}

/* What was lent within this very interpreter, where isolated work runs on threads, need not wait for the next call. */
static void drain_own(PyTypeObject *type, bool lent)
{
    struct fr_module *mod = lent && ((PyHeapTypeObject *)type)->ht_module ? fr_module_of_type(type) : NULL;
    if (mod && mod->lender) {
        fr_lender_drain(mod);
    }
}

static void block_dealloc(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    struct fr_block *block = ((BlockObject *)self)->block;
    bool lent = block->lender != NULL;
    block_unref(block);
    drain_own(type, lent);
    type->tp_free(self);
    Py_DECREF(type);
}

static PyType_Slot block_slots[] = {
    {Py_tp_doc, "Memory that another interpreter may look at, too."},
    {Py_tp_dealloc, block_dealloc},
    {Py_bf_getbuffer, block_getbuffer},
    {0, NULL},
};

static PyType_Spec block_spec = {
    .name = "freerun._core._native.Block",
    .basicsize = sizeof(BlockObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = block_slots,
};

static PyObject *block_view(struct fr_module *mod, struct fr_block *block)
{
    BlockObject *object = (BlockObject *)mod->block_type->tp_alloc(mod->block_type, 0);
    if (!object) {
        return NULL;
    }
    atomic_fetch_add_explicit(&block->refs, 1, memory_order_relaxed); /* the parcel holds one */
    object->block = block;
    PyObject *view = PyMemoryView_FromObject((PyObject *)object);
    Py_DECREF(object);
    return view;
}

/* ---- parcels ---- */

static void item_drop(struct fr_item *item)
{
    int fd;
    switch (item->kind) {
    case FR_ITEM_BLOCK:
        block_unref(item->block);
        break;
    case FR_ITEM_FD:
        fd = atomic_exchange_explicit(&item->fd, -1, memory_order_acq_rel); /* pairs with item_object() */
        if (fd >= 0) {
            close(fd);
        }
        break;
    case FR_ITEM_SENDER:
    case FR_ITEM_RECEIVER:
        fr_pipe_drop(item->pipe, item->kind == FR_ITEM_RECEIVER);
        break;
    }
}

void fr_parcel_free(struct fr_parcel *parcel)
{
    if (!parcel) {
        return;
    }
    for (Py_ssize_t i = 0; i < parcel->count; i++) {
        item_drop(&parcel->items[i]);
    }
    if (parcel->data) {
        block_unref(parcel->data);
    }
    free(parcel);
}

/* An int is a descriptor, which becomes the parcel's; a PipeEnd one more end; anything else a buffer. */
static int item_fill(struct fr_module *mod, struct fr_item *item, PyObject *object, struct fr_lender *lender)
{
    if (PyLong_Check(object)) {
        long fd = PyLong_AsLong(object);
        int copy = fd < 0 ? -1 : dup((int)fd);
        if (copy < 0) {
            if (!PyErr_Occurred()) {
                PyErr_SetFromErrno(PyExc_OSError);
            }
            return -1;
        }
        item->kind = FR_ITEM_FD;
        atomic_init(&item->fd, copy);
        return 0;
    }
    if (Py_IS_TYPE(object, mod->pipe_end_type)) {
        int end = 0;
        struct fr_pipe *pipe = fr_pipe_of(mod, object, &end);
        if (!pipe) {
            return -1;
        }
        fr_pipe_hold(pipe, end);
        item->kind = end ? FR_ITEM_RECEIVER : FR_ITEM_SENDER;
        item->pipe = pipe;
        return 0;
    }
    item->kind = FR_ITEM_BLOCK;
    item->block = block_new(object, lender);
    return item->block ? 0 : -1;
}

/* Below this a copy is cheaper than to send it back. */
enum { LEAST_LENT = 16384 };

static struct fr_parcel *parcel_make(struct fr_module *mod, PyObject *data, PyObject *items, struct fr_lender *lender)
{
    Py_ssize_t n = items ? PyTuple_GET_SIZE(items) : 0;
    struct fr_parcel *parcel = malloc(sizeof *parcel + (size_t)n * sizeof parcel->items[0]);
    if (!parcel) {
        PyErr_NoMemory();
        return NULL;
    }
    parcel->count = 0;
    parcel->data = block_new(data, PyObject_Length(data) >= LEAST_LENT ? lender : NULL);
    bool made = parcel->data != NULL;
    for (Py_ssize_t i = 0; made && i < n; i++) {
        made = item_fill(mod, &parcel->items[i], PyTuple_GET_ITEM(items, i), lender) == 0;
        parcel->count += made;
    }
    if (!made) {
        fr_parcel_free(parcel);
        return NULL;
    }
    return parcel;
}

PyObject *fr_parcel_object(struct fr_module *mod, struct fr_parcel *parcel)
{
    if (!parcel) {
        Py_RETURN_NONE;
    }
    ParcelObject *self = (ParcelObject *)mod->parcel_type->tp_alloc(mod->parcel_type, 0);
    if (!self) {
        fr_parcel_free(parcel);
        return NULL;
    }
    atomic_init(&self->parcel, parcel);
    return (PyObject *)self;
}

static struct fr_parcel *look(PyObject *self)
{
    /* acquire: pairs with fr_parcel_take() */
    struct fr_parcel *parcel = atomic_load_explicit(&((ParcelObject *)self)->parcel, memory_order_acquire);
    if (!parcel) {
        PyErr_SetString(PyExc_ValueError, "this parcel was sent already");
    }
    return parcel;
}

struct fr_parcel *fr_parcel_take(struct fr_module *mod, PyObject *object)
{
    if (!Py_IS_TYPE(object, mod->parcel_type)) {
        PyErr_Format(PyExc_TypeError, "argument 'parcel' must be a Parcel, not %.200s", Py_TYPE(object)->tp_name);
        return NULL;
    }
    struct fr_parcel *parcel = look(object);
    /* acq_rel: one taker; pairs with itself and look() */
    return parcel ? atomic_exchange_explicit(&((ParcelObject *)object)->parcel, NULL, memory_order_acq_rel) : NULL;
}

static PyObject *parcel_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *keywords[] = {"", "", "lend", NULL};
    PyObject *data, *items = NULL;
    int lend = 0;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O|O!$p:Parcel", keywords, &data, &PyTuple_Type, &items, &lend)) {
        return NULL;
    }
    struct fr_module *mod = fr_module_of_type(type);
    fr_lender_drain(mod);
    struct fr_parcel *parcel = parcel_make(mod, data, items, lend ? mod->lender : NULL);
    return parcel ? fr_parcel_object(mod, parcel) : NULL;
}

static void parcel_dealloc(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    /* acquire: pairs with fr_parcel_take() */
    struct fr_parcel *parcel = atomic_load_explicit(&((ParcelObject *)self)->parcel, memory_order_acquire);
    bool lent = parcel && parcel->count;
    fr_parcel_free(parcel);
    drain_own(type, lent);
    type->tp_free(self);
    Py_DECREF(type);
}

static PyObject *parcel_data(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    struct fr_parcel *parcel = look(self);
    if (!parcel) {
        return NULL;
    }
    if (parcel->data->size < LEAST_LENT) {
        return PyBytes_FromStringAndSize(parcel->data->bytes, parcel->data->size);
    }
    return block_view(fr_module_of_type(Py_TYPE(self)), parcel->data);
}

static PyObject *item_object(struct fr_module *mod, struct fr_item *item)
{
    switch (item->kind) {
    case FR_ITEM_BLOCK:
        return block_view(mod, item->block);
    case FR_ITEM_FD:
        /* acq_rel: one taker; pairs with item_drop() */
        return PyLong_FromLong(atomic_exchange_explicit(&item->fd, -1, memory_order_acq_rel));
    default:
        return fr_pipe_end_object(mod, item->pipe, item->kind == FR_ITEM_RECEIVER);
    }
}

static PyObject *parcel_items(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    struct fr_parcel *parcel = look(self);
    PyObject *items = parcel ? PyList_New(0) : NULL;
    for (Py_ssize_t i = 0; items && i < parcel->count; i++) {
        PyObject *object = item_object(fr_module_of_type(Py_TYPE(self)), &parcel->items[i]);
        if (!object || PyList_Append(items, object)) {
            Py_CLEAR(items);
        }
        Py_XDECREF(object);
    }
    return items;
}

static PyMethodDef parcel_methods[] = {
    {"data", parcel_data, METH_NOARGS, "data($self, /)\n--\n\nThe bytes, or a view of them if they are many."},
    {"items", parcel_items, METH_NOARGS,
     "items($self, /)\n--\n\nA list: views of the buffers, descriptors (the caller's from now on; -1 the second time), "
     "PipeEnds."},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot parcel_slots[] = {
    {Py_tp_doc, "Parcel(data, items=(), /, *, lend=False)\n--\n\n"
                "What is handed to another interpreter: bytes, and buffers, descriptors (an int; duplicated) and "
                "PipeEnds.\n\n"
                "`lend`: buffers are looked at where they are, and released when the other side is done; else copied."},
    {Py_tp_new, parcel_new},
    {Py_tp_dealloc, parcel_dealloc},
    {Py_tp_methods, parcel_methods},
    {0, NULL},
};

static PyType_Spec parcel_spec = {
    .name = "freerun._core._native.Parcel",
    .basicsize = sizeof(ParcelObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = parcel_slots,
};

PyObject *fr_isolated_drain(PyObject *module, PyObject *Py_UNUSED(ignored))
{
    fr_lender_drain(PyModule_GetState(module));
    Py_RETURN_NONE;
}

int fr_parcel_add_types(struct fr_module *mod)
{
    mod->lender = fr_lender_new();
    if (!mod->lender) {
        PyErr_NoMemory();
        return -1;
    }
    return fr_module_add_type(mod, &mod->block_type, &block_spec, NULL) ||
                   fr_module_add_type(mod, &mod->parcel_type, &parcel_spec, "Parcel")
               ? -1
               : 0;
}
