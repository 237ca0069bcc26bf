/* join, try_join: every branch to its end, in the task that awaits it. Tokio: join!, try_join!. See group.h. */
#include "group.h"

static PyObject *results(struct fr_group *group)
{
    uint32_t count = group->set ? group->set->count : 0;
    PyObject *tuple = PyTuple_New(count);
    for (uint32_t i = 0; tuple && i < count; i++) {
        PyTuple_SET_ITEM(tuple, i, group->set->branches[i].task.result);
        group->set->branches[i].task.result = NULL;
    }
    return tuple;
}

static const struct fr_group_kind join = {.name = "join", .result = results};
static const struct fr_group_kind try_join = {.name = "try_join", .fails_fast = true, .result = results};

PyObject *fr_join(PyObject *module, PyObject *const *args, Py_ssize_t nargs)
{
    return (PyObject *)fr_group_new(PyModule_GetState(module), &join, args, nargs, NULL);
}

PyObject *fr_try_join(PyObject *module, PyObject *const *args, Py_ssize_t nargs)
{
    return (PyObject *)fr_group_new(PyModule_GetState(module), &try_join, args, nargs, NULL);
}
