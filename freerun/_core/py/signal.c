/* signal: listeners for the process's signals, as Python objects over rt/signals.h.
 *
 * THREADS     any.
 * STATE       attached; detached where it may wait for a handler to return.
 * OWNERSHIP   the object owns its listener until close(), or its end.
 * FIELDS      listener  written before anybody has the object; what it refers to says by itself when it is over.
 * SHUTDOWN    independent of runtimes. signals_restore() at the main interpreter's exit.
 * PROVED BY   tests/signal
 */
#include "runtime.h"

#include <errno.h>

#include "rt/signals.h"

typedef struct {
    PyObject_HEAD
    struct fr_listener listener;
} ListenerObject;

static bool unlisten(struct fr_listener listener)
{
    PyThreadState *state = PyEval_SaveThread();
    bool was = fr_signal_unlisten(listener);
    PyEval_RestoreThread(state);
    return was;
}

static PyObject *listener_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *keywords[] = {"", NULL};
    int number;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "i:SignalListener", keywords, &number)) {
        return NULL;
    }
    struct fr_listener listener;
    int err = fr_signal_listen(number, &listener);
    if (err) {
        errno = -err;
        return PyErr_SetFromErrno(PyExc_OSError);
    }
    ListenerObject *self = (ListenerObject *)type->tp_alloc(type, 0);
    if (self) {
        self->listener = listener;
    } else {
        unlisten(listener);
    }
    return (PyObject *)self;
}

static void listener_dealloc(PyObject *op)
{
    PyTypeObject *type = Py_TYPE(op);
    PyObject *error = PyErr_GetRaisedException();
    unlisten(((ListenerObject *)op)->listener);
    PyErr_SetRaisedException(error);
    type->tp_free(op);
    Py_DECREF(type);
}

static PyObject *listener_take(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    return PyBool_FromLong(fr_signal_take(((ListenerObject *)op)->listener));
}

static PyObject *listener_dup_fd(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    int fd = fr_signal_dup_fd(((ListenerObject *)op)->listener);
    if (fd < 0) {
        errno = -fd;
        return PyErr_SetFromErrno(PyExc_OSError);
    }
    return PyLong_FromLong(fd);
}

static PyObject *listener_close(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    return PyBool_FromLong(unlisten(((ListenerObject *)op)->listener));
}

static PyMethodDef listener_methods[] = {
    {"take", listener_take, METH_NOARGS, "take($self, /)\n--\n\nWhether the signal came since the last time."},
    {"dup_fd", listener_dup_fd, METH_NOARGS,
     "dup_fd($self, /)\n--\n\nA new descriptor that is readable while there is something to take."},
    {"close", listener_close, METH_NOARGS, "close($self, /)\n--\n\nListen no more; whether it did. Any thread."},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot listener_slots[] = {
    {Py_tp_doc, "SignalListener(number, /)\n--\n\nHears a signal of the process. Any thread, any interpreter."},
    {Py_tp_new, listener_new},
    {Py_tp_dealloc, listener_dealloc},
    {Py_tp_methods, listener_methods},
    {0, NULL},
};

static PyType_Spec listener_spec = {
    .name = "freerun._core._native.SignalListener",
    .basicsize = sizeof(ListenerObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = listener_slots,
};

int fr_signal_add_types(struct fr_module *mod)
{
    return fr_module_add_type(mod, &mod->signal_listener_type, &listener_spec, "SignalListener");
}

PyObject *fr_signals_notify_py(PyObject *Py_UNUSED(module), PyObject *number)
{
    int signal = PyLong_AsInt(number);
    return signal == -1 && PyErr_Occurred() ? NULL : PyBool_FromLong(fr_signal_notify(signal));
}

PyObject *fr_signals_rearm_py(PyObject *Py_UNUSED(module), PyObject *number)
{
    int signal = PyLong_AsInt(number);
    if (signal == -1 && PyErr_Occurred()) {
        return NULL;
    }
    fr_signals_rearm(signal);
    Py_RETURN_NONE;
}

PyObject *fr_signals_restore_py(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(ignored))
{
    if (PyInterpreterState_Get() == PyInterpreterState_Main()) {
        fr_signals_restore();
    }
    Py_RETURN_NONE;
}
