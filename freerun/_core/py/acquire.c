/* acquire: waiting for permits of a batch semaphore, as a task and as a thread; see acquire.h. */
#include "acquire.h"

#include <errno.h>

#include "branch.h"
#include "futurelock.h"

void fr_acquire_wake(void *task)
{
    fr_task_wake_unref(task);
}

void fr_acquire_granted(void *task)
{
    fr_granted(fr_task_trunk(task));
    fr_acquire_wake(task);
}

/* It stands in line no more; `taken`: somebody took it out, and woke its task. */
static void forget_task(struct fr_acquire *acquire, struct fr_sem *sem, bool taken)
{
    if (taken && sem->wake == fr_acquire_granted) {
        fr_grant_seen(fr_task_trunk(acquire->task));
    }
    fr_task_unref(acquire->task);
}

static enum fr_acquired enlist(struct fr_acquire *acquire, struct fr_sem *sem, struct fr_task *task)
{
    fr_acquire_settle();
    acquire->wait.waiter = (struct fr_waiter){.task = task};
    acquire->task = task;
    fr_leaf_ref(task);
    int err = fr_sem_acquire(sem, &acquire->wait, acquire->count);
    if (err == -EAGAIN) {
        fr_task_ref(task); /* the waiter's is gone as soon as it is taken */
        acquire->state = FR_ACQUIRE_LINED;
        return FR_ACQUIRE_PARKS;
    }
    fr_task_unref(task);
    if (err) {
        return FR_ACQUIRE_CLOSED;
    }
    acquire->state = FR_ACQUIRE_HELD;
    return FR_ACQUIRED;
}

enum fr_acquired fr_acquire_step_slow(struct fr_acquire *acquire, struct fr_sem *sem, struct fr_task *task)
{
    if (acquire->state == FR_ACQUIRE_NEW) {
        return enlist(acquire, sem, task);
    }
    int err = fr_sem_poll(&acquire->wait);
    if (err == -EAGAIN && acquire->wait.waiter.task != task) {
        if (!fr_leaf_move(&sem->lock, &acquire->wait.waiter, task)) {
            return FR_ACQUIRE_MISUSED;
        }
        if (acquire->wait.waiter.task == task) { /* nobody else writes it */
            fr_task_ref(task);
            fr_task_unref(acquire->task);
            acquire->task = task;
        }
        err = fr_sem_poll(&acquire->wait);
    }
    if (err == -EAGAIN) {
        return FR_ACQUIRE_PARKS;
    }
    if (err) {
        fr_acquire_let_go(acquire, sem);
        return FR_ACQUIRE_CLOSED;
    }
    if (!fr_leaf_spend()) {
        return FR_ACQUIRE_YIELDS; /* what it was given stays its own */
    }
    forget_task(acquire, sem, true);
    acquire->state = FR_ACQUIRE_HELD;
    return FR_ACQUIRED;
}

void fr_acquire_let_go(struct fr_acquire *acquire, struct fr_sem *sem)
{
    if (acquire->state != FR_ACQUIRE_LINED) {
        return;
    }
    acquire->state = FR_ACQUIRE_NEW;
    bool linked = fr_sem_cancel(sem, &acquire->wait);
    if (linked) {
        fr_task_unref(acquire->wait.waiter.task);
    }
    forget_task(acquire, sem, !linked);
}

int fr_acquire_wait_blocking(struct fr_sem *sem, struct fr_sem_waiter *waiter)
{
    int err = fr_leaf_wait_event(waiter->waiter.event, -1) ? -EINTR : fr_sem_settle(sem, waiter);
    if (err) {
        fr_sem_cancel(sem, waiter);
    }
    return err;
}

int fr_acquire_blocking(struct fr_sem *sem, uint64_t n)
{
    struct fr_event event;
    fr_event_init(&event, -1);
    struct fr_sem_waiter waiter = {.waiter = {.event = &event}};
    int err = fr_sem_acquire(sem, &waiter, n);
    return err == -EAGAIN ? fr_acquire_wait_blocking(sem, &waiter) : err;
}

int fr_parse_count(PyObject *value, const char *argument, uint64_t least, uint64_t *count)
{
    if (PyBool_Check(value) || !PyIndex_Check(value)) {
        PyErr_Format(PyExc_TypeError, "argument '%s' must be an int, not %.200s: %R", argument, Py_TYPE(value)->tp_name,
                     value);
        return -1;
    }
    PyObject *number = PyNumber_Index(value);
    if (!number) {
        return -1;
    }
    int overflow;
    long long n = PyLong_AsLongLongAndOverflow(number, &overflow);
    Py_DECREF(number);
    if (n == -1 && PyErr_Occurred()) {
        return -1;
    }
    if (overflow < 0 || (!overflow && n < (long long)least)) {
        PyErr_Format(PyExc_ValueError, "argument '%s' must be at least %llu: %R", argument, (unsigned long long)least,
                     value);
        return -1;
    }
    if (overflow > 0 || (uint64_t)n > FR_SEM_MAX) {
        PyErr_Format(PyExc_ValueError, "argument '%s' must be at most 2**61 - 1: %R", argument, value);
        return -1;
    }
    *count = (uint64_t)n;
    return 0;
}

int fr_parse_optional(PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames, const char *function,
                      const char *argument, PyObject **value)
{
    Py_ssize_t named = kwnames ? PyTuple_GET_SIZE(kwnames) : 0;
    *value = NULL;
    if (nargs + named > 1) {
        PyErr_Format(PyExc_TypeError, "%s() takes one argument, '%s', not %zd", function, argument, nargs + named);
        return -1;
    }
    if (named && !PyUnicode_EqualToUTF8(PyTuple_GET_ITEM(kwnames, 0), argument)) {
        PyErr_Format(PyExc_TypeError, "%s() got an unexpected keyword argument '%U'; its only one is '%s'", function,
                     PyTuple_GET_ITEM(kwnames, 0), argument);
        return -1;
    }
    *value = nargs + named ? args[0] : NULL;
    return 0;
}
