/* fork: lets a process fork, and exit, that has interpreters besides the first.
 *
 * In the child CPython clears every other interpreter, PyOS_AfterFork_Child() -> _PyInterpreterState_DeleteExceptMain(),
 * without a thread state, and dies of it: "PyThreadState_Get: the function must be called with the GIL held" (3.13.0; the
 * source says of that very call "Won't this fail since PyInterpreterState_Clear() requires the current tstate to be set?").
 * Their threads do not exist in the child, so nothing of them is of use there. We take them off the list first: what libc
 * calls in the child comes before anything of CPython's.
 *
 * The same at exit, for an interpreter whose thread is stuck in a call: Py_FinalizeEx() would take its memory down under it.
 *
 * The list's head is found by the offsets that CPython publishes for debuggers, and only touched if it is what
 * PyInterpreterState_Head() says.
 *
 * PROVED BY  tests/interp/test_lifetime.py
 */
#include <pthread.h>

#include "isolated.h"

extern struct pyruntimestate _PyRuntime; /* exported, for debuggers and profilers */

/* The beginning of _Py_DebugOffsets, in 3.13 to 3.15. */
struct offsets {
    char cookie[8];
    uint64_t version;
    uint64_t free_threaded;
    uint64_t size, finalizing, interpreters_head;
};

static void forget_other_interpreters(void)
{
    const struct offsets *offsets = (const struct offsets *)(const void *)&_PyRuntime;
    PyInterpreterState *main = PyInterpreterState_Main();
    if (memcmp(offsets->cookie, "xdebugpy", sizeof offsets->cookie) || PyInterpreterState_Head() == main) {
        return;
    }
    if (offsets->interpreters_head >= offsets->size) {
        return;
    }
    PyInterpreterState **head = (PyInterpreterState **)(void *)((char *)&_PyRuntime + offsets->interpreters_head);
    if (*head == PyInterpreterState_Head()) {
        *head = main;
    }
}

PyObject *fr_isolated_forget(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(ignored))
{
    forget_other_interpreters();
    Py_RETURN_NONE;
}

static void install(void)
{
    pthread_atfork(NULL, NULL, forget_other_interpreters);
}

void fr_isolated_allow_fork(void)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, install);
}
