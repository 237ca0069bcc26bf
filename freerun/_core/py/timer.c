/* timer: alarms, and sleep(), the plainest use of one. See timer.h. */
#include "timer.h"

#include <math.h>

#include "leaf.h"

/* ---- alarms ---- */

/* Where it is armed: with the worker that this thread is, else with nobody's. */
static uint32_t home(struct fr_runtime *rt)
{
    struct fr_worker *worker = fr_own_worker(rt);
    return worker && worker->index < rt->nworkers ? worker->index : rt->nworkers;
}

bool fr_alarm_set(struct fr_alarm *alarm, struct fr_task *task, uint64_t when_ns)
{
    struct fr_runtime *rt = task->rt;
    alarm->rt = rt;
    alarm->generation = rt->generation;
    fr_leaf_ref(task);
    if (fr_driver_sleep_arm(&rt->driver, home(rt), &alarm->sleep, when_ns, task)) {
        return true;
    }
    fr_task_unref(task);
    alarm->rt = NULL;
    return false;
}

/* True: it was in the wheel, and the reference to its task is the caller's. */
static bool take_back(struct fr_alarm *alarm)
{
    struct fr_runtime *rt = alarm->rt;
    if (!rt) {
        return false;
    }
    alarm->rt = NULL;
    if (fr_alarm_fired(alarm)) {
        return false; /* [TM2] */
    }
    bool foreign = fr_foreign_begin(rt);
    bool armed = rt->generation == alarm->generation && fr_timers_disarm(&rt->driver.timers, &alarm->sleep);
    fr_foreign_end(rt, foreign);
    return armed;
}

void fr_alarm_clear_slow(struct fr_alarm *alarm)
{
    if (take_back(alarm)) {
        fr_task_unref(alarm->sleep.task);
    }
}

bool fr_alarm_take(struct fr_alarm *alarm, struct fr_task *task, uint64_t when_ns)
{
    if (!take_back(alarm)) {
        return true;
    }
    struct fr_task *owner = alarm->sleep.task;
    bool may = fr_leaf_may_take(owner, task);
    if (!may && !fr_alarm_set(alarm, owner, when_ns)) {
        fr_task_wake(owner); /* its time has come meanwhile */
    }
    fr_task_unref(owner);
    return may;
}

uint64_t fr_delay_ns(double seconds)
{
    double ns = seconds * 1e9;
    if (ns >= (double)FR_FOREVER_NS) {
        return FR_FOREVER_NS;
    }
    uint64_t whole = (uint64_t)ns;
    /* 0.067 * 1e9 is a little more than 67000000, and that would be the next millisecond. */
    return whole + ((double)whole < ns && (double)whole / 1e9 < seconds);
}

int fr_parse_instant(PyObject *value, uint64_t *when_ns)
{
    int overflow;
    long long ns = PyLong_AsLongLongAndOverflow(value, &overflow);
    if (ns == -1 && PyErr_Occurred()) {
        return -1;
    }
    *when_ns = overflow > 0 ? FR_FOREVER_NS : ns > 0 ? (uint64_t)ns : 0;
    return 0;
}

void fr_no_timers(void)
{
    PyErr_SetString(PyExc_RuntimeError, "this runtime was built without timers; call Builder.enable_time() or "
                                        "enable_all()");
}

/* ---- sleep ---- */

typedef struct {
    PyObject_HEAD
    struct fr_alarm alarm;
    uint64_t when_ns; /* with RELATIVE: the delay, counted from the first await; else the deadline */
} SleepObject;

#define RELATIVE (UINT64_C(1) << 63) /* a bit rather than a field: there may be a million of these */

/* Fixes the deadline, and says whether that is yet to come. */
static bool is_ahead(SleepObject *self, struct fr_runtime *rt)
{
    uint64_t delay = self->when_ns & ~RELATIVE;
    if (delay == self->when_ns) {
        return delay > fr_now_ns(rt);
    }
    self->when_ns = fr_deadline_after(fr_now_ns(rt), delay); /* a look at the clock costs as much as an await */
    return delay > 0;
}

static PyObject *step(SleepObject *self, struct fr_task *task)
{
    if (!fr_timers_enabled(task->rt)) {
        return NULL;
    }
    struct fr_alarm *alarm = &self->alarm;
    if (fr_alarm_is_for(alarm, task)) {
        if (!fr_alarm_fired(alarm)) {
            return fr_leaf_park(); /* spurious */
        }
        alarm->rt = NULL;
        return NULL;
    }
    if (!fr_alarm_take(alarm, task, self->when_ns)) {
        return NULL;
    }
    bool ahead = is_ahead(self, task->rt);
    if (self->when_ns >= FR_FOREVER_NS) {
        return fr_leaf_park(); /* a timer would let a paused clock jump to the end of time */
    }
    if (ahead && fr_alarm_set(alarm, task, self->when_ns)) {
        fr_task_waits_in(task, self);
        return fr_leaf_park();
    }
    return fr_leaf_spend() ? NULL : fr_leaf_yield();
}

static void sleep_let_go(PyObject *op)
{
    fr_alarm_clear(&((SleepObject *)op)->alarm);
}

FR_LEAF_METHODS(sleep, sleep_let_go);

static PyObject *sleep_iternext(PyObject *op)
{
    SleepObject *self = (SleepObject *)op;
    struct fr_task *task = fr_leaf_task();
    if (!task || !fr_leaf_enter(&self->alarm.sleep.stepping)) {
        return NULL;
    }
    PyObject *token = step(self, task);
    fr_leaf_exit(&self->alarm.sleep.stepping);
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
        fr_alarm_init(&self->alarm);
        self->when_ns = 0;
    }
    return self;
}

static int parse_other_seconds(PyObject *value, const char *what, double *seconds)
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
    *seconds = PyLong_CheckExact(value) ? PyLong_AsDouble(value) : PyFloat_AsDouble(value);
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
    return 0;
}

int fr_parse_seconds(PyObject *value, const char *what, double *seconds)
{
    if (PyFloat_CheckExact(value)) {
        *seconds = PyFloat_AS_DOUBLE(value);
    } else if (parse_other_seconds(value, what, seconds)) {
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
        self->when_ns = RELATIVE | fr_delay_ns(seconds);
    }
    return (PyObject *)self;
}

PyObject *fr_timer_sleep_until(PyObject *module, PyObject *deadline)
{
    uint64_t when_ns;
    if (fr_parse_instant(deadline, &when_ns)) {
        return NULL;
    }
    SleepObject *self = sleep_new(PyModule_GetState(module));
    if (self) {
        self->when_ns = when_ns;
    }
    return (PyObject *)self;
}

int fr_timer_add_types(struct fr_module *mod)
{
    return fr_module_add_type(mod, &mod->sleep_type, &sleep_spec, NULL);
}
