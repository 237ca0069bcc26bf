/* claims: coroutine objects that some task runs. Spawning one twice is refused. And contexts that several tasks were given,
 * while one of them is polled in it; the others wait in line, and all of them are woken when it is left. (One would not do:
 * it may belong to a runtime that nobody runs now.)
 *
 * On free-threaded CPython 3.13 and 3.14 two threads that send to one coroutine can crash the interpreter: its own
 * "already executing" check is a plain read and write there. On every other build the claim makes the mistake show in
 * the same way. A task made with spawn(async_fn, *args) needs none, since nobody else ever sees its coroutine.
 *
 * THREADS    any attached. OWNERSHIP none: a claim lasts no longer than the task's own reference to the coroutine, or
 *            context. The line holds a reference to each task in it; a task leaves it before it is completed.
 * LOCKS      one per shard, a leaf. FORK the child starts with no claims and open locks.
 */
#include <stdlib.h>

#include "acquire.h"
#include "runtime.h"
#include "task.h"

enum { SHARDS = 64, FIRST_SIZE = 16 };

static struct claim_shard {
    _Alignas(64) struct fr_mutex lock;
    PyObject **slots; /* open addressing, linear probing; borrowed pointers */
    uint32_t size, used;
    struct fr_task *line; /* for contexts, linked by task->next */
} shards[SHARDS];

static uint64_t hash(PyObject *coro)
{
    return ((uint64_t)(uintptr_t)coro >> 4) * UINT64_C(0x9E3779B97F4A7C15);
}

static struct claim_shard *shard_of(PyObject *coro)
{
    return &shards[hash(coro) >> 58];
}

static uint32_t home(const struct claim_shard *shard, PyObject *coro)
{
    return (uint32_t)(hash(coro) >> 20) & (shard->size - 1);
}

/* The slot of `coro`, or the free one where it would go. There is always a free one. */
static uint32_t find_locked(const struct claim_shard *shard, PyObject *coro)
{
    uint32_t i = home(shard, coro);
    while (shard->slots[i] && shard->slots[i] != coro) {
        i = (i + 1) & (shard->size - 1);
    }
    return i;
}

static bool grow_locked(struct claim_shard *shard)
{
    if (shard->size && shard->used * 2 < shard->size) {
        return true;
    }
    struct claim_shard bigger = {.size = shard->size ? shard->size * 2 : FIRST_SIZE};
    bigger.slots = calloc(bigger.size, sizeof *bigger.slots);
    if (!bigger.slots) {
        return false;
    }
    for (uint32_t i = 0; i < shard->size; i++) {
        if (shard->slots[i]) {
            bigger.slots[find_locked(&bigger, shard->slots[i])] = shard->slots[i];
        }
    }
    free(shard->slots);
    shard->slots = bigger.slots;
    shard->size = bigger.size;
    return true;
}

/* 1, 0: somebody has it, -1: there is no memory. */
static int claim_locked(struct claim_shard *shard, PyObject *object)
{
    if (!grow_locked(shard)) {
        return -1;
    }
    uint32_t i = find_locked(shard, object);
    if (shard->slots[i]) {
        return 0;
    }
    shard->used++;
    shard->slots[i] = object;
    return 1;
}

int fr_claim(PyObject *coro)
{
    struct claim_shard *shard = shard_of(coro);
    fr_mutex_lock(&shard->lock);
    int claimed = claim_locked(shard, coro);
    fr_mutex_unlock(&shard->lock);
    if (claimed < 0) {
        PyErr_NoMemory();
    } else if (claimed == 0) {
        PyErr_SetString(PyExc_RuntimeError, "argument 'coro' is a coroutine that another task runs already; call the "
                                            "async function again for a new one");
    }
    return claimed == 1 ? 0 : -1;
}

static void unclaim_locked(struct claim_shard *shard, PyObject *object)
{
    uint32_t mask = shard->size - 1, hole = shard->size ? find_locked(shard, object) : 0;
    if (!shard->size || !shard->slots[hole]) { /* claimed before a fork */
        return;
    }
    shard->slots[hole] = NULL;
    shard->used--;
    /* Close the gap: whoever probed past it moves up. */
    for (uint32_t i = (hole + 1) & mask; shard->slots[i]; i = (i + 1) & mask) {
        if (((i - home(shard, shard->slots[i])) & mask) >= ((i - hole) & mask)) {
            shard->slots[hole] = shard->slots[i];
            shard->slots[i] = NULL;
            hole = i;
        }
    }
}

void fr_unclaim(PyObject *coro)
{
    struct claim_shard *shard = shard_of(coro);
    fr_mutex_lock(&shard->lock);
    unclaim_locked(shard, coro);
    fr_mutex_unlock(&shard->lock);
}

/* ---- contexts ---- */

/* At the end, unless it is there. */
static void join_line_locked(struct claim_shard *shard, struct fr_task *task)
{
    struct fr_task **link = &shard->line;
    while (*link && *link != task) {
        link = &(*link)->next;
    }
    if (!*link) {
        fr_task_ref(task);
        task->next = NULL;
        *link = task;
    }
}

/* True: the line's reference is the caller's now. */
static bool leave_locked(struct claim_shard *shard, struct fr_task *task)
{
    for (struct fr_task **link = &shard->line; *link; link = &(*link)->next) {
        if (*link == task) {
            *link = task->next;
            return true;
        }
    }
    return false;
}

int fr_context_claim(struct fr_task *task)
{
    struct claim_shard *shard = shard_of(task->context);
    bool left = false;
    fr_mutex_lock(&shard->lock);
    int claimed = claim_locked(shard, task->context);
    if (claimed != 0) {
        left = leave_locked(shard, task);
    } else {
        join_line_locked(shard, task);
    }
    fr_mutex_unlock(&shard->lock);
    if (left) {
        fr_task_unref(task);
    }
    if (claimed < 0) {
        PyErr_NoMemory();
    }
    return claimed;
}

void fr_context_leave_line(struct fr_task *task)
{
    struct claim_shard *shard = shard_of(task->context);
    fr_mutex_lock(&shard->lock);
    bool left = leave_locked(shard, task);
    fr_mutex_unlock(&shard->lock);
    if (left) {
        fr_task_unref(task);
    }
}

static size_t count_locked(const struct claim_shard *shard, const PyObject *context)
{
    size_t n = 0;
    for (const struct fr_task *each = shard->line; each; each = each->next) {
        n += each->context == context;
    }
    return n;
}

/* Takes out the first ones, `most` at the most; how many. Their references are the batch's. */
static size_t take_locked(struct claim_shard *shard, const PyObject *context, size_t most, struct fr_wakes *wakes)
{
    for (struct fr_task **link = &shard->line; *link && (size_t)wakes->n < most && !fr_wakes_full(wakes);) {
        struct fr_task *task = *link;
        if (task->context == context) {
            *link = task->next;
            wakes->tasks[wakes->n++] = task;
        } else {
            link = &task->next;
        }
    }
    return (size_t)wakes->n;
}

void fr_context_unclaim(PyObject *context)
{
    struct claim_shard *shard = shard_of(context);
    struct fr_wakes wakes;
    fr_wakes_init(&wakes);
    fr_mutex_lock(&shard->lock);
    unclaim_locked(shard, context);
    /* Those who are in line now: who is woken may be in line again before the last one is. */
    size_t left = count_locked(shard, context);
    while (left) {
        size_t taken = take_locked(shard, context, left, &wakes);
        fr_mutex_unlock(&shard->lock);
        fr_wakes_fire(&wakes, fr_acquire_wake);
        left = taken ? left - taken : 0;
        fr_mutex_lock(&shard->lock);
    }
    fr_mutex_unlock(&shard->lock);
}

void fr_claims_after_fork(void)
{
    for (int i = 0; i < SHARDS; i++) { /* the tables may be half-written: leave them behind */
        shards[i] = (struct claim_shard){.size = 0};
    }
}
