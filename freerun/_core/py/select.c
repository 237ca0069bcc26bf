/* select: the first of several, in the task that awaits it; the others are cancelled. Tokio: select!. See group.h. */
#include "group.h"

static PyObject *winner(struct fr_group *group)
{
    PyObject *which = group->names ? Py_NewRef(PyTuple_GET_ITEM(group->names, group->winner))
                                   : PyLong_FromUnsignedLong(group->winner);
    PyObject *pair = which ? PyTuple_New(2) : NULL;
    if (!pair) {
        Py_XDECREF(which);
        return NULL;
    }
    PyTuple_SET_ITEM(pair, 0, which);
    PyTuple_SET_ITEM(pair, 1, group->value);
    group->value = NULL;
    return pair;
}

static const struct fr_group_kind kind = {.name = "select", .first_wins = true, .fails_fast = true, .result = winner};

/* The keywords that are branches: their values into `branches`, their names as a tuple. *biased: what was given for it, or
 * NULL. NULL with an exception. */
static PyObject *take_keywords(PyObject *const *values, PyObject *kwnames, PyObject **branches, PyObject **biased)
{
    Py_ssize_t count = PyTuple_GET_SIZE(kwnames), n = 0;
    for (Py_ssize_t i = 0; i < count; i++) {
        if (PyUnicode_EqualToUTF8(PyTuple_GET_ITEM(kwnames, i), "biased")) {
            *biased = values[i];
        }
    }
    PyObject *names = PyTuple_New(count - (*biased != NULL));
    for (Py_ssize_t i = 0; names && i < count; i++) {
        if (values[i] != *biased || !PyUnicode_EqualToUTF8(PyTuple_GET_ITEM(kwnames, i), "biased")) {
            branches[n] = values[i];
            PyTuple_SET_ITEM(names, n++, Py_NewRef(PyTuple_GET_ITEM(kwnames, i)));
        }
    }
    return names;
}

static PyObject *make(struct fr_module *mod, PyObject *const *branches, Py_ssize_t count, PyObject *names,
                      PyObject *biased)
{
    if (biased && !PyBool_Check(biased)) {
        PyErr_Format(PyExc_TypeError, "argument 'biased' must be a bool, not %.200s: it is no branch of select()",
                     Py_TYPE(biased)->tp_name);
        return NULL;
    }
    if (count == 0) {
        PyErr_SetString(PyExc_ValueError, "select() needs at least one branch: with none, nothing could ever win");
        return NULL;
    }
    struct fr_group *group = fr_group_new(mod, &kind, branches, count, names);
    if (group) {
        group->biased = biased == Py_True;
        group->random_start = !group->biased;
    }
    return (PyObject *)group;
}

static PyObject *with_keywords(struct fr_module *mod, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    PyObject *few[16], *biased = NULL, *group = NULL;
    Py_ssize_t named = PyTuple_GET_SIZE(kwnames);
    PyObject **branches = named <= 16 ? few : PyMem_New(PyObject *, named);
    if (!branches) {
        return PyErr_NoMemory();
    }
    PyObject *names = take_keywords(args + nargs, kwnames, branches, &biased);
    if (names && PyTuple_GET_SIZE(names) == 0) {
        group = make(mod, args, nargs, NULL, biased);
    } else if (names && nargs) {
        PyErr_SetString(PyExc_TypeError, "select() takes branches by position or by name, not both");
    } else if (names) {
        group = make(mod, branches, PyTuple_GET_SIZE(names), names, biased);
    }
    Py_XDECREF(names);
    if (branches != few) {
        PyMem_Free(branches);
    }
    return group;
}

PyObject *fr_select(PyObject *module, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    struct fr_module *mod = PyModule_GetState(module);
    return kwnames ? with_keywords(mod, args, nargs, kwnames) : make(mod, args, nargs, NULL, NULL);
}
