/* countdown: a number that many threads count down without a lock; the one that ends it is told. For a value that
 * several receivers have to pass, which would otherwise queue for a lock to say so.
 *
 * THREADS    any.
 * OWNERSHIP  none.
 * FIELDS     left  fetch_sub by any thread, acq_rel
 * INVARIANTS CD1  exactly one call is the n-th.
 * PROVED BY  tests/sync/test_broadcast.py
 */
#include "runtime.h"

typedef struct {
    PyObject_HEAD
    _Atomic Py_ssize_t left;
} CountdownObject;

static PyObject *countdown_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *keywords[] = {"", NULL};
    Py_ssize_t left;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "n:Countdown", keywords, &left)) {
        return NULL;
    }
    CountdownObject *self = (CountdownObject *)type->tp_alloc(type, 0);
    if (self) {
        atomic_init(&self->left, left);
    }
    return (PyObject *)self;
}

static void countdown_dealloc(PyObject *op)
{
    PyTypeObject *type = Py_TYPE(op);
    type->tp_free(op);
    Py_DECREF(type);
}

static PyObject *countdown_down(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    /* acq_rel: the last one comes after all the others; pairs with itself [CD1] */
    return PyBool_FromLong(atomic_fetch_sub_explicit(&((CountdownObject *)op)->left, 1, memory_order_acq_rel) == 1);
}

static PyMethodDef countdown_methods[] = {
    {"down", countdown_down, METH_NOARGS, "down($self, /)\n--\n\nCount one; True for the call that makes it 0."},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot countdown_slots[] = {
    {Py_tp_doc, "Countdown(n, /)\n--\n\nA number that is counted down to 0. Any thread."},
    {Py_tp_new, countdown_new},
    {Py_tp_dealloc, countdown_dealloc},
    {Py_tp_methods, countdown_methods},
    {0, NULL},
};

static PyType_Spec countdown_spec = {
    .name = "freerun._core._native.Countdown",
    .basicsize = sizeof(CountdownObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = countdown_slots,
};

int fr_countdown_add_types(struct fr_module *mod)
{
    return fr_module_add_type(mod, &mod->countdown_type, &countdown_spec, "Countdown");
}
