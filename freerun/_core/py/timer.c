/* timer: sleep(), on the driver's wheel. */
#include <math.h>

#include "leaf.h"

typedef struct {
    PyObject_HEAD
    struct fr_sleep sleep;
    struct fr_runtime *rt; /* where it is armed; NULL before */
    uint64_t generation;   /* of rt, when it was armed: a retained leaf outlives its runtime harmlessly */
    uint64_t when_ns;      /* with RELATIVE: the delay, counted from the first await; else the deadline */
    struct fr_task *task;  /* where it is armed; compared, and dropped when taken back */
} SleepObject;

#define FOREVER_NS ((uint64_t)INT64_MAX)
#define RELATIVE   (UINT64_C(1) << 63) /* a bit rather than a field: there may be a million of these */

/* Takes the timer out of the wheel, if it is in one that still lives. */
static void disarm(SleepObject *self)
{
    struct fr_runtime *rt = self->rt;
    if (!rt) {
        return;
    }
    bool foreign = fr_foreign_begin(rt);
    bool armed = rt->generation == self->generation && fr_driver_sleep_disarm(&rt->driver, &self->sleep);
    fr_foreign_end(rt, foreign);
    self->rt = NULL;
    if (armed) {
        fr_task_unref(self->task);
    }
}

/* Registers for `task`; false: it is due already. */
static bool arm(SleepObject *self, struct fr_task *task)
{
    struct fr_runtime *rt = task->rt;
    self->rt = rt;
    self->generation = rt->generation;
    self->task = task;
    fr_task_ref(task);
    if (fr_driver_sleep_arm(&rt->driver, &self->sleep, self->when_ns, task)) {
        return true;
    }
    fr_task_unref(task);
    self->rt = NULL;
    return false;
}

static PyObject *step(SleepObject *self, struct fr_task *task)
{
    if (!task->rt->time) {
        PyErr_SetString(PyExc_RuntimeError, "this runtime was built without timers; call Builder.enable_time() or "
                                            "enable_all()");
        return NULL;
    }
    if (self->when_ns & RELATIVE) {
        uint64_t now = fr_now_ns(task->rt), delay = self->when_ns & ~RELATIVE;
        self->when_ns = delay > FOREVER_NS - now ? FOREVER_NS : now + delay;
    }
    if (self->rt == task->rt && self->task == task) {
        if (!fr_driver_sleep_fired(&task->rt->driver, &self->sleep)) {
            return fr_leaf_park(); /* spurious */
        }
        self->rt = NULL;
        return NULL;
    }
    if (self->rt && !fr_leaf_may_take(self->task, task)) {
        return NULL;
    }
    disarm(self); /* the task that waited is over */
    if (self->when_ns > fr_now_ns(task->rt) && arm(self, task)) {
        return fr_leaf_park();
    }
    return fr_leaf_spend() ? NULL : fr_leaf_yield();
}

static void sleep_let_go(PyObject *op)
{
    disarm((SleepObject *)op);
}

FR_LEAF_METHODS(sleep, sleep_let_go);

static PyObject *sleep_iternext(PyObject *op)
{
    SleepObject *self = (SleepObject *)op;
    struct fr_task *task = fr_leaf_task();
    if (!task || !fr_leaf_enter(&self->sleep.stepping)) {
        return NULL;
    }
    PyObject *token = step(self, task);
    fr_leaf_exit(&self->sleep.stepping);
    return token;
}

static void sleep_dealloc(PyObject *op)
{
    sleep_let_go(op);
    fr_dealloc(op, FR_FREE_SLEEP);
}

static PyType_Slot sleep_slots[] = {
    {Py_tp_doc, "What sleep() returns."},
    {Py_tp_dealloc, sleep_dealloc},
    {Py_tp_methods, sleep_methods},
    FR_LEAF_SLOTS(sleep_iternext),
    {0, NULL},
};

static PyType_Spec sleep_spec = {
    .name = "freerun._core._native.Sleep",
    .basicsize = sizeof(SleepObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = sleep_slots,
};

static SleepObject *sleep_new(struct fr_module *mod)
{
    SleepObject *self = (SleepObject *)fr_alloc(mod->sleep_type, FR_FREE_SLEEP);
    if (self) {
        self->sleep = (struct fr_sleep){.task = NULL};
        self->rt = NULL;
        self->task = NULL;
        self->when_ns = 0;
    }
    return self;
}

int fr_parse_seconds(PyObject *value, const char *what, double *seconds)
{
    PyObject *total = NULL;
    if (!PyFloat_Check(value) && !PyLong_Check(value) && PyObject_HasAttrString(value, "total_seconds")) {
        total = PyObject_CallMethod(value, "total_seconds", NULL);
        if (!total) {
            return -1;
        }
        value = total;
    }
    if (PyBool_Check(value) || !(PyFloat_Check(value) || PyLong_Check(value) || PyNumber_Check(value))) {
        PyErr_Format(PyExc_TypeError, "argument '%s' must be seconds (float or int) or a timedelta, not %.200s", what,
                     Py_TYPE(value)->tp_name);
        Py_XDECREF(total);
        return -1;
    }
    *seconds = PyFloat_AsDouble(value);
    Py_XDECREF(total);
    if (*seconds == -1.0 && PyErr_Occurred()) {
        if (PyErr_ExceptionMatches(PyExc_OverflowError)) { /* an int beyond any float: for ever, or before now */
            PyErr_Clear();
            PyErr_Format(PyExc_ValueError, "argument '%s' is too large a number of seconds", what);
        } else if (PyErr_ExceptionMatches(PyExc_TypeError)) { /* complex numbers and the like */
            PyErr_Clear();
            PyErr_Format(PyExc_TypeError, "argument '%s' must be seconds (float or int) or a timedelta", what);
        }
        return -1;
    }
    if (isnan(*seconds) || *seconds < 0) {
        PyErr_Format(PyExc_ValueError, "argument '%s' must not be %s", what, isnan(*seconds) ? "NaN" : "negative");
        return -1;
    }
    return 0;
}

PyObject *fr_timer_sleep(PyObject *module, PyObject *value)
{
    double seconds;
    if (fr_parse_seconds(value, "seconds", &seconds)) {
        return NULL;
    }
    SleepObject *self = sleep_new(PyModule_GetState(module));
    if (self) {
        double ns = ceil(seconds * 1e9);
        self->when_ns = RELATIVE | (ns >= (double)FOREVER_NS ? FOREVER_NS : (uint64_t)ns);
    }
    return (PyObject *)self;
}

PyObject *fr_timer_sleep_until(PyObject *module, PyObject *deadline)
{
    long long ns = PyLong_AsLongLong(deadline);
    if (ns == -1 && PyErr_Occurred()) {
        return NULL;
    }
    SleepObject *self = sleep_new(PyModule_GetState(module));
    if (self) {
        self->when_ns = ns > 0 ? (uint64_t)ns : 0;
    }
    return (PyObject *)self;
}

int fr_timer_add_types(struct fr_module *mod)
{
    return fr_module_add_type(mod, &mod->sleep_type, &sleep_spec, NULL);
}
