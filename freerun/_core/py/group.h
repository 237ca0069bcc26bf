/* group: branches that one task polls together: what join(), try_join() and select() return.
 *
 * The first step polls every branch once; from then on those that were woken. A turn goes on until nobody is left to be
 * polled, or the cooperative budget is spent: then the task gives way, and the next turn goes on where this one stopped.
 * A branch that is always ready gets a turn of its own, and so do its siblings.
 *
 * What ends the group early (a winner, a failure, an exception thrown in from outside) cancels the branches that still
 * run: each gets Cancelled thrown in, once for each such reason, and is polled until it has ended.
 *
 * THREADS    one steps it at a time (`stepping`); whichever drops it.
 * STATE      attached.
 * OWNERSHIP  the object owns its block of branches, and what they have ended with, until its own outcome is out.
 * FIELDS     now, later  who is to be polled in this turn, and in the next one (biased: in the order of the branches)
 *            live     branches that have not ended
 *            value    of the winner, of select() only
 *            error    what will be raised: the first failure; KeyboardInterrupt and SystemExit before any other
 *            thrown   what was thrown in from outside. It is raised unless there is an error
 *            decided  the rest is being cancelled
 *            starved  the last turn had not the time to poll anybody
 * INVARIANTS G1 the outcome is out only when every branch has ended.
 *            G2 no exception of a branch is lost: it is raised, or it goes to the runtime's unhandled_exception, but for
 *               the Cancelled of a branch that was cancelled.
 *            G3 a turn that has no time left, like the one before it, gets some more: what takes so long before the group is
 *               reached, be it many groups around it, takes so long in every turn.
 * LOCKS      none.
 * SHUTDOWN   see branch.h.
 * PROVED BY  tests/task/test_select.py, tests/task/test_join.py, tests/task/test_cancel_in_branches.py
 */
#ifndef FR_GROUP_H
#define FR_GROUP_H

#include "branch.h"

struct fr_group;

struct fr_group_kind {
    const char *name;
    bool first_wins; /* whoever returns first decides it */
    bool fails_fast; /* whoever raises first decides it */
    /* Every branch has ended, and nothing is to be raised. NULL with an exception. */
    PyObject *(*result)(struct fr_group *group);
};

struct fr_group_queue {
    struct fr_task *head, *tail;
};

struct fr_group {
    PyObject_HEAD
    const struct fr_group_kind *kind;
    struct fr_branch_set *set; /* NULL: there are none, or it is over */
    PyObject *names;           /* tuple, or NULL: they have numbers */
    struct fr_group_queue now, later;
    uint32_t live;
    uint32_t winner;
    PyObject *value;
    PyObject *error;
    PyObject *thrown;
    _Atomic bool stepping;
    bool biased;
    bool random_start;
    bool started;
    bool decided;
    bool starved;
    bool fatal; /* `error` is a KeyboardInterrupt or a SystemExit */
    bool over;
};

/* A group of that many awaitables, or async functions without arguments. `names`: borrowed, or NULL. NULL with an
 * exception. */
struct fr_group *fr_group_new(struct fr_module *mod, const struct fr_group_kind *kind, PyObject *const *awaitables,
                              Py_ssize_t count, PyObject *names);

#endif
