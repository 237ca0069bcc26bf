/* listeners: what native primitives share with lowlevel.Listeners, see listeners.c: waiting for news with a look that is a
 * C function.
 *
 * THREADS    any.
 * STATE      attached.
 * OWNERSHIP  whoever has the line in its object keeps it: the leaf of fr_listen() holds `what`, which holds that object.
 * FIELDS     those of listeners.c
 * INVARIANTS LI1 and LI2 of listeners.c
 * LOCKS      a look runs under none; it may take locks of its own, which are leaves (see rt/mutex.h).
 * SHUTDOWN   as listeners.c
 * PROVED BY  tests/sync/test_listeners.py, tests/sync/test_watch.py, tests/sync/test_broadcast.py
 */
#ifndef FR_LISTENERS_H
#define FR_LISTENERS_H

#include "leaf.h"
#include "rt/mutex.h"

struct fr_listeners {
    _Atomic uint64_t epoch;
    struct fr_mutex lock;
    struct fr_node line;
    Py_ssize_t count;
    struct fr_module *mod; /* borrowed: the type of who has them keeps it */
};

/* Whether there is something in it for `what`, that is an object of the primitive: a new reference to what was found.
 * NULL: it raised, or there is nothing yet (no exception). */
typedef PyObject *(*fr_look)(struct fr_module *mod, PyObject *what);

/* Of a lowlevel.Listeners, which the caller keeps. */
struct fr_listeners *fr_listeners_of(PyObject *listeners);
/* What is to be awaited: looks at once, and again after each wake_all(). */
PyObject *fr_listen(struct fr_listeners *listeners, fr_look look, PyObject *what);

#endif
