/* scope: a part of a task that can be cancelled by itself: by its deadline, or from any thread.
 *
 * A task is a line of execution, and may hold others within it: timeout(s, aw) steps `aw` by itself. Each line has a
 * stack of the scopes that it is in. Before a line is stepped, whoever steps it (task.c for the task, the awaitable for
 * what it awaits) looks whether one of its scopes is due; then the line gets Cancelled thrown in instead of being
 * resumed, once. Leaving the scope turns that Cancelled into what the scope is for: TimeoutError, or nothing.
 *
 * A scope may be a *shield*: what comes from outside of it, an outer scope or an abort of the task, is held back until it
 * is left, or is a shield no more. Who throws into a line looks at that line's own shields only; the lines within look at
 * theirs when the Cancelled gets there. A line that holds one back *owes* it: it throws it in when it can, and if it ends
 * before that, the debt is that of the line around it.
 *
 * THREADS    enter, leave, and everything about stacks: the thread that polls the task. cancel, reschedule, expired,
 *            when: any attached thread.
 * STATE      attached.
 * OWNERSHIP  a line owns its innermost scope, each scope its parent. An active scope owns a reference to its task.
 * FIELDS     task->scopes, floor   the stack of the line being stepped: its innermost scope, and where those around
 *                                  the line begin, which it leaves alone
 *            task->owed, line->owed   who has thrown what was held back, NULL: nothing was. Of the line being stepped it
 *                                     is in the task. Only compared: FR_BY_ABORT, a scope, or a line
 *            parent, delivered, overtaken, held, shield   the thread that polls the task; shield, by whoever made the
 *                                     scope until it is entered
 *            caught              the thread that leaves
 *            phase               written in the critical section; atomic, for those who look without it
 *            cancelled           set once, by anybody: with it, or with a fired alarm, the scope is *due*
 *            alarm, when_ns, task   in the object's critical section; `fired` of the alarm as said in rt/driver.h
 * INVARIANTS C1 whoever makes a scope due wakes its task afterwards, so the line is stepped again after that.
 *            C2 a due scope is delivered once: one Cancelled for however many scopes of a line are due together.
 *            C3 the outermost wins: when something outside cancels the line (an abort, an outer scope, a timeout
 *               around it), the scopes inside are overtaken, and let the Cancelled pass as it is. They know by whom.
 *            C4 a scope that was left is in the phase DONE and is not delivered. It may still be in a stack, if it was
 *               left from another line or task than its own, and is skipped there.
 *            C5 nothing is held back for ever: a shield that did so (`held`) wakes its task when it is one no more.
 * LOCKS      the critical section of the object; a timer shard's inside. Nothing is woken or dropped in it.
 * SHUTDOWN   a task that ends lets go of what is still in its stack. The abort respects shields, the close() does not.
 * PROVED BY  tests/time/test_timeout_scope.py, tests/time/test_timeout_nested.py, tests/task/test_cancel_scope.py
 */
#ifndef FR_SCOPE_H
#define FR_SCOPE_H

#include "timer.h"

/* In place of a number of seconds. */
#define FR_LIMIT_INSTANT (-1.0) /* a deadline was given */
#define FR_LIMIT_CUT     (-2.0) /* cancel() was called */

/* Who throws a Cancelled: a scope, or one of these. A line's is odd, so that it is no scope's. */
#define FR_BY_ABORT      ((void *)&fr_by_abort)
#define FR_BY_LINE(line) ((void *)((char *)(line) + 1))
extern uint64_t fr_by_abort;

enum fr_scope_phase { FR_SCOPE_NEW, FR_SCOPE_ACTIVE, FR_SCOPE_DONE };

struct fr_scope {
    PyObject_HEAD
    struct fr_alarm alarm;
    struct fr_scope *parent;
    struct fr_task *task;
    uint64_t when_ns; /* the deadline; unless one was given, from the entry on (`fixed`) */
    double seconds;   /* the limit, or one of FR_LIMIT_* */
    _Atomic uint8_t phase;
    _Atomic bool cancelled;
    _Atomic bool asked; /* cancel() was called */
    bool fixed;
    bool delivered;
    bool plain; /* a CancelScope: it raises nothing, and remembers that it was cancelled too late */
    bool shield;
    bool held;
    bool caught;
    void *overtaken; /* by whom; NULL: not at all */
};

/* What a coroutine that is stepped by itself within a task has of its own. */
struct fr_line {
    struct fr_scope *scopes; /* innermost; NULL: it is in none but those around it */
    struct fr_scope *floor;  /* the innermost of those around it; only compared */
    void *owed;
    struct fr_task *debtor; /* in which task it owes that; only compared */
};

static inline bool fr_scope_is_due(struct fr_scope *scope)
{
    /* acquire, both: pairs with fr_scope_cancel() and the driver; what they did before is visible [C1] */
    return atomic_load_explicit(&scope->cancelled, memory_order_acquire) || fr_alarm_fired(&scope->alarm);
}

/* The slow part of fr_scopes_take_due(). */
bool fr_scopes_take(struct fr_task *task);

/* Whether the line being stepped has to get Cancelled now. Says so once [C2]. */
static inline bool fr_scopes_take_due(struct fr_task *task)
{
    return __builtin_expect(task->scopes != task->floor || task->owed, 0) && fr_scopes_take(task);
}

bool fr_scopes_shield_slow(struct fr_task *task);
/* The line being stepped owes this one's Cancelled; of several, the outermost's, which serves for all [C2, C3]. */
void fr_scopes_owe(struct fr_task *task, void *by);

/* Whether a shield keeps off what comes from outside of the line being stepped. If so, it is held back. */
static inline bool fr_scopes_shield(struct fr_task *task)
{
    return task->scopes != task->floor && fr_scopes_shield_slow(task);
}

/* Cancelled comes to a line from outside, which is begun. True: it is held back and owed; step the line instead. */
static inline bool fr_line_hold(struct fr_line *line, struct fr_task *task)
{
    if (!fr_scopes_shield(task)) {
        return false;
    }
    fr_scopes_owe(task, fr_thread.thrown ? fr_thread.thrown : FR_BY_LINE(line));
    return true;
}

/* Something outside of the line being stepped, fr_thread.thrown, throws Cancelled into it: that serves whatever is due in
 * it too [C3]. */
void fr_scopes_overtake(struct fr_task *task);
void fr_scopes_drop_slow(struct fr_line *line);

/* The line is over: whatever is still in its stack is left, and what it owes the line around it owes. */
static inline void fr_scopes_drop(struct fr_line *line)
{
    if (line->owed || line->scopes) {
        fr_scopes_drop_slow(line);
    }
}

/* Around every step of a line: its stack becomes the task's, on top of the scopes around it. Returns the outer line. */
static inline struct fr_line fr_line_begin(struct fr_line *line, struct fr_task *task)
{
    struct fr_line outer = {.scopes = task->scopes, .floor = task->floor, .owed = task->owed};
    task->owed = line->owed;
    if (line->scopes) {
        task->scopes = line->scopes;
        task->floor = line->floor;
    } else {
        Py_XINCREF(outer.scopes);
        task->floor = outer.scopes;
    }
    return outer;
}

static inline void fr_line_end(struct fr_line *line, struct fr_task *task, struct fr_line outer)
{
    if (task->scopes == task->floor) {
        Py_XDECREF(task->floor);
        line->scopes = NULL;
    } else {
        line->scopes = task->scopes;
        line->floor = task->floor;
    }
    line->owed = task->owed;
    line->debtor = task;
    task->owed = outer.owed;
    task->scopes = outer.scopes;
    task->floor = outer.floor;
}

/* Cancels the scope, from any thread; nothing if it is over, or due already. */
void fr_scope_cancel(struct fr_scope *scope);
/* `seconds` counts from the entry; FR_LIMIT_INSTANT: until when_ns. */
PyObject *fr_scope_new(struct fr_module *mod, double seconds, uint64_t when_ns);
void fr_scope_init(struct fr_scope *scope, double seconds, uint64_t when_ns);
/* 0, or -1 with RuntimeError. */
int fr_scope_enter(struct fr_scope *scope);
/* 1: the Cancelled that ends the body is the scope's own. 0: what the body ended with stays. -1 with an exception. */
int fr_scope_leave(struct fr_module *mod, struct fr_scope *scope, PyObject *kind, PyObject *error);
/* Moves the deadline, or, with `seconds` and not entered yet, the limit. 0, or -1 with RuntimeError: too late. */
int fr_scope_move(struct fr_scope *scope, double seconds, uint64_t when_ns);
/* The deadline as an Instant, or None. */
PyObject *fr_scope_deadline(struct fr_scope *scope);
/* 1 and *when_ns; 0: it is no Instant; -1 with an exception. */
int fr_parse_instant_object(PyObject *value, uint64_t *when_ns);
/* What overtook the scope throws Cancelled once more, where the task waits next: the first one got lost on its way. */
void fr_scope_cancel_again(struct fr_scope *scope);
/* "not done within ... s", from the Cancelled. NULL with another exception. */
PyObject *fr_timeout_error(double seconds, PyObject *cancelled);

#endif
