/* leaf: what awaitables of the engine share.
 *
 * A leaf is an iterator. Awaited, it either is ready (fr_leaf_return) or registers a waiter for the current task and
 * suspends it (fr_leaf_park); resumed, it looks again, so a spurious wake is harmless.
 *
 * THREADS    the thread that polls the task.
 * STATE      attached.
 * OWNERSHIP  objects come from the worker's free list, where they keep the reference to their type: an allocation
 *            touches no line that another worker writes.
 * INVARIANTS L1 a leaf that returns the suspension token has set fr_thread.wait in the same call; a token without it
 *               comes from a foreign awaitable and is refused.
 *            L2 a leaf that is registered somewhere lets go when an exception is thrown through it (throw) or its
 *               coroutine is closed (close), as well as when it is freed: on free-threaded builds it is freed by the
 *               thread that made it, which may be much later.
 */
#ifndef FR_LEAF_H
#define FR_LEAF_H

#include "rt/clock.h"
#include "rt/prefetch.h"
#include "rt/wakes.h"
#include "runtime.h"

/* Immortal in every build, and nobody else yields it. */
#define FR_TOKEN Py_Ellipsis

static inline PyObject *fr_leaf_park(void)
{
    fr_thread.wait |= FR_WAIT_PARK;
    return FR_TOKEN;
}

/* For the end of another task: see fr_task_gathers(). */
static inline PyObject *fr_leaf_park_join(void)
{
    fr_thread.wait |= FR_WAIT_JOIN;
    return fr_leaf_park();
}

static inline PyObject *fr_leaf_yield(void)
{
    fr_thread.wait |= FR_WAIT_YIELD;
    return FR_TOKEN;
}

/* Budget is spent by leaves that were ready at once. False: yield instead, so that one task cannot starve others. It
 * counts time as well: a connection whose next request is always there already, and takes milliseconds, would keep its
 * worker for 128 requests. */
bool fr_leaf_is_spent(void);

/* The same for a leaf that spends of it. Reading the clock may cost a fifth of a ready await (on a virtual machine, 17 ns of
 * 80): the first leaf of a timed turn does, and while leaves come so fast that twice as many would not use up a quarter of
 * what is left, only every second, fourth, ... FR_STRIDE_MAX-th. */
#define FR_STRIDE_MAX 16

bool fr_leaf_look_at_clock(void); /* true: the turn's time is over */

static inline bool fr_leaf_may_spend(void)
{
    return fr_thread.budget > fr_thread.look_at || (fr_thread.budget && !fr_leaf_look_at_clock());
}

/* The turn begins, or begins again, and lasts until then; the next leaf looks at the clock. */
static inline void fr_leaf_begin_turn(uint64_t now, uint64_t ends)
{
    fr_thread.budget = fr_thread.look_at = FR_BUDGET;
    fr_thread.looked = now;
    fr_thread.turn_ends = ends;
    fr_thread.stride = 1;
}

/* The same for a turn that will be over in a moment, going by those before it. Should it not, the clock is looked at after
 * FR_LEAVES_UNTIMED leaves, and its millisecond begins then. */
#define FR_LEAVES_UNTIMED 3

static inline void fr_leaf_begin_untimed_turn(void)
{
    fr_thread.budget = FR_BUDGET;
    fr_thread.look_at = FR_BUDGET - FR_LEAVES_UNTIMED;
    fr_thread.turn_ends = 0;
    fr_thread.stride = 1;
}

/* One more slice, for who is never reached in the first one. False: the task has no worker for the rest of its poll. */
static inline bool fr_leaf_renew_budget(void)
{
    struct fr_worker *worker = fr_thread.worker;
    if (worker) {
        uint64_t now = fr_clock_ticks();
        fr_leaf_begin_turn(now, now + worker->ticks_per_ms);
    }
    return worker != NULL;
}

static inline bool fr_leaf_spend(void)
{
    if (!fr_leaf_may_spend()) {
        fr_thread.refused = true;
        return false;
    }
    fr_thread.budget--;
    return true;
}

/* For what steps others, resumed: the way back to where the last turn stopped is no part of this turn's millisecond. In a
 * deep nest it takes longer than that, and no turn would get any further. */
static inline void fr_leaf_descend(void)
{
    struct fr_worker *worker = fr_thread.worker;
    if (fr_thread.descends && worker) {
        fr_thread.turn_ends = fr_clock_ticks() + worker->ticks_per_ms;
    }
}

struct fr_task *fr_leaf_no_task(void);
void fr_leaf_shared(void); /* raises RuntimeError: two tasks await one object */

/* The task being polled, or NULL with RuntimeError. */
static inline struct fr_task *fr_leaf_task(void)
{
    struct fr_task *task = fr_thread.task;
    return __builtin_expect(task != NULL, 1) ? task : fr_leaf_no_task();
}

/* A reference to the task, for a waiter. The first one of a poll is there already (a branch's is not, see branch.h). Another
 * task's is its poller's to take: who reschedules a timeout, say, may be any thread. */
static inline void fr_leaf_ref(struct fr_task *task)
{
    if (fr_thread.task == task && task->spare) {
        task->spare = false;
    } else {
        fr_task_ref(task);
    }
}

/* One thread at a time steps a leaf that keeps state: two tasks may have got hold of the same object. */
static inline bool fr_leaf_try_enter(_Atomic bool *stepping)
{
    return !atomic_exchange_explicit(stepping, true, memory_order_acquire); /* pairs with fr_leaf_exit() */
}

/* The same; false with RuntimeError. */
static inline bool fr_leaf_enter(_Atomic bool *stepping)
{
    if (__builtin_expect(fr_leaf_try_enter(stepping), 1)) {
        return true;
    }
    fr_leaf_shared();
    return false;
}

/* The caller's reference is the only one, and no other thread can make another until this one runs Python. */
static inline bool fr_is_unique(PyObject *object)
{
#ifdef Py_GIL_DISABLED
    /* acquire: what others did with it while they had references */
    return _Py_IsOwnedByCurrentThread(object) && _Py_atomic_load_uint32_relaxed(&object->ob_ref_local) == 1 &&
           _Py_atomic_load_ssize_acquire(&object->ob_ref_shared) == 0;
#else
    return Py_REFCNT(object) == 1;
#endif
}

/* As fr_leaf_enter(), at less cost where nobody else has the leaf, which is the rule. Who gets hold of it later, as the
 * collector's functions let one, gets it from this thread, and sees that it is being stepped. */
static inline bool fr_leaf_enter_own(PyObject *leaf, _Atomic bool *stepping)
{
    if (__builtin_expect(fr_is_unique(leaf), 1)) {
        atomic_store_explicit(stepping, true, memory_order_relaxed);
        return true;
    }
    return fr_leaf_enter(stepping);
}

static inline void fr_leaf_exit(_Atomic bool *stepping)
{
    atomic_store_explicit(stepping, false, memory_order_release); /* pairs with fr_leaf_enter() */
}

/* False, with RuntimeError, if `owner`, for which the leaf is registered, is another task that still runs. */
bool fr_leaf_may_take(struct fr_task *owner, struct fr_task *task);
/* A leaf was awaited by one task (or enabled by none), and now another one polls it: lets that one wait in its place. True
 * also if the waiter is linked no more: look again. False with RuntimeError: the first task still runs. */
bool fr_leaf_move(struct fr_mutex *lock, struct fr_waiter *waiter, struct fr_task *task);
/* 0, or -1 with RuntimeError: this thread polls tasks, so `function` must not put it to sleep. */
int fr_leaf_may_block(const char *function, const char *instead);
/* Sleeps, detached, until the event is set: 0, 1 (`timeout_ns` is over; negative: none), -1 with a handler's exception. */
int fr_leaf_wait_event(struct fr_event *event, int64_t timeout_ns);
/* Ends the await with `value` (stolen); always returns NULL. */
PyObject *fr_leaf_return(PyObject *value);
/* What the last leaf of this worker returned, if it is of that type and nobody else has it any more: the caller's, to be
 * made what a new one would be. NULL: there is none. */
PyObject *fr_leaf_take_back(PyTypeObject *type);
/* After a poll: the worker's exception lets go of what the last leaf returned. */
void fr_leaf_forget(struct fr_worker *worker);
PyObject *fr_leaf_self(PyObject *self);
/* throw(): raises what a coroutine passes on to what it awaits; always NULL. */
PyObject *fr_leaf_raise(PyObject *const *args, Py_ssize_t nargs);
/* As `raise error from cause` has it. Both stay the caller's. */
static inline void fr_error_set_cause(PyObject *error, PyObject *cause)
{
    PyException_SetCause(error, Py_NewRef(cause));
    PyException_SetContext(error, Py_NewRef(cause));
}
/* An exception is set: the value of a StopIteration, or PYGEN_ERROR and NULL. */
PySendResult fr_take_stop(PyObject **result);
/* am_send on top of tp_iternext, for Python versions whose SEND goes through it. */
PySendResult fr_leaf_send(PyObject *self, PyObject *value, PyObject **result);

#define FR_LEAF_SLOTS(iternext)                                                          \
    {Py_tp_iter, fr_leaf_self}, {Py_am_await, fr_leaf_self}, {Py_tp_iternext, iternext}, \
    {                                                                                    \
        Py_am_send, fr_leaf_send                                                         \
    }

/* throw() and close() of a leaf, by what lets go of its registration [L2]. */
#define FR_LEAF_THROW_AND_CLOSE(name, let_go)                                              \
    static PyObject *name##_throw(PyObject *self, PyObject *const *args, Py_ssize_t nargs) \
    {                                                                                      \
        let_go(self);                                                                      \
        return fr_leaf_raise(args, nargs);                                                 \
    }                                                                                      \
    static PyObject *name##_close(PyObject *self, PyObject *Py_UNUSED(ignored))            \
    {                                                                                      \
        let_go(self);                                                                      \
        Py_RETURN_NONE;                                                                    \
    }
#define FR_LEAF_METHOD_ROWS(name)                                        \
    {"throw", (PyCFunction)(void (*)(void))name##_throw, METH_FASTCALL,  \
     "For the coroutine that awaits it: gives up waiting, and raises."}, \
        {"close", name##_close, METH_NOARGS, "Give up waiting; it may be awaited again."}

/* The same for a leaf that has no other methods. */
#define FR_LEAF_METHODS(name, let_go)       \
    FR_LEAF_THROW_AND_CLOSE(name, let_go)   \
    static PyMethodDef name##_methods[] = { \
        FR_LEAF_METHOD_ROWS(name),          \
        {NULL, NULL, 0, NULL},              \
    }

/* A value may hold the next handle, and so on, a million deep. From 3.14 on every deallocation counts its depth. */
#if PY_VERSION_HEX < 0x030E0000
#define FR_TRASHCAN_BEGIN(object, dealloc) Py_TRASHCAN_BEGIN(object, dealloc)
#define FR_TRASHCAN_END                    Py_TRASHCAN_END
#else
#define FR_TRASHCAN_BEGIN(object, dealloc)
#define FR_TRASHCAN_END
#endif

/* This thread, to compare with, as long as it lives. */
static inline const void *fr_this_thread(void)
{
    return &fr_thread;
}

/* A new reference, for whom perhaps another thread runs: `taker`, or NULL, nobody knows. There the value is a foreign object,
 * and its last reference would have to be sent back to this one, under a lock, to be counted off (PEP 703,
 * _Py_brc_queue_object). A reference counted as shared from the start can be dropped by any thread; but then it is, and all
 * later ones are, an atomic operation, also on this one. So where it is known to be taken here it is not. */
static inline PyObject *fr_ref_to_send(PyObject *value, const void *taker)
{
#ifdef Py_GIL_DISABLED
    struct fr_worker *worker = fr_thread.worker;
    if (taker != fr_this_thread() && !(worker && worker->rt->nworkers == 1) && !_Py_IsImmortal(value)) {
        _Py_atomic_add_ssize(&value->ob_ref_shared, (Py_ssize_t)1 << _Py_REF_SHARED_SHIFT);
        return value;
    }
#else
    (void)taker;
#endif
    return Py_NewRef(value);
}

static inline void **fr_free_link(PyObject *object)
{
    return (void **)(object + 1);
}

/* From the worker's free list, NULL: there is none. */
static inline PyObject *fr_recycle(PyTypeObject *type, enum fr_free_kind kind)
{
    struct fr_worker *worker = fr_thread.worker;
    struct fr_free_list *list = worker ? &worker->free[kind] : NULL;
    if (!list || list->type != type) {
        return NULL;
    }
    PyObject *object = list->head;
    if (!object) {
        fr_worker_missed(worker, &list->room);
        return NULL;
    }
    list->head = *fr_free_link(object);
    fr_prefetch(list->head, sizeof(PyObject) + sizeof(void *)); /* of many the next is in no cache */
    list->room.count--;
    _Py_NewReference(object);
    return object;
}

/* ---- spares ----
 *
 * A leaf is made for one await. To free it and to make the next one, over a free list, costs some 20 ns. So a leaf that has
 * ended with a value, and that nobody but its awaiter has, becomes its worker's spare: it lets go of what it holds, and gets
 * a reference more, which is what is left of it in a moment. The next of its kind is that object again.
 *
 * A spare is alive, so the collector shows it to whoever asks for its objects. Who got hold of it there has it for good: it
 * is taken only if it is unique. What it then does, step, throw() and close(), must be what a leaf does that has ended. */

/* True: `op` is its worker's spare now, and the caller empties it next; where that may run Python code no exception is set.
 * Asked at its end, by whoever steps it: the only reference that is counted is then the awaiter's. Or, on 3.14, that of the
 * variable in `next(variable)`, which is borrowed for the call: that leaf has ended, too. */
static inline bool fr_spare_keep(PyObject *op, enum fr_free_kind kind)
{
    struct fr_worker *worker = fr_thread.worker;
    if (!worker || worker->free[kind].spare || worker->free[kind].type != Py_TYPE(op) || !fr_is_unique(op)) {
        return false;
    }
    worker->free[kind].spare = Py_NewRef(op);
    return true;
}

/* The worker's spare, the caller's now: initialized, tracked, whatever it was; or NULL. */
static inline PyObject *fr_spare_take(PyTypeObject *type, enum fr_free_kind kind)
{
    struct fr_worker *worker = fr_thread.worker;
    PyObject *spare = worker ? worker->free[kind].spare : NULL;
    if (!spare || worker->free[kind].type != type) {
        return NULL;
    }
    worker->free[kind].spare = NULL;
    if (fr_is_unique(spare)) {
        return spare;
    }
    Py_DECREF(spare); /* its worker has another thread now, or somebody got hold of it */
    return NULL;
}

/* A new object of a non-GC type; fields after the header are whatever they were. */
static inline PyObject *fr_alloc(PyTypeObject *type, enum fr_free_kind kind)
{
    PyObject *object = fr_recycle(type, kind);
    return object ? object : type->tp_alloc(type, 0);
}

/* The same for a leaf of which there may be a spare. */
static inline PyObject *fr_alloc_leaf(PyTypeObject *type, enum fr_free_kind kind)
{
    PyObject *spare = fr_spare_take(type, kind);
    return spare ? spare : fr_alloc(type, kind);
}

/* The same of a GC type: the caller tracks it, once its fields are set. */
static inline PyObject *fr_alloc_gc(PyTypeObject *type, enum fr_free_kind kind)
{
    PyObject *object = fr_recycle(type, kind);
    if (!object && (object = type->tp_alloc(type, 0))) {
        PyObject_GC_UnTrack(object);
    }
    return object;
}

static inline void fr_dealloc(PyObject *object, enum fr_free_kind kind)
{
    struct fr_worker *worker = fr_thread.worker;
    struct fr_free_list *list = worker ? &worker->free[kind] : NULL;
    PyTypeObject *type = Py_TYPE(object);
    if (list && list->type == type && list->room.count < list->room.most) {
        *fr_free_link(object) = list->head;
        list->head = object;
        list->room.count++;
        return;
    }
    type->tp_free(object);
    Py_DECREF(type);
}

#endif
