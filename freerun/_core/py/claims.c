/* claims: coroutine objects that some task runs. Spawning one twice is refused. And contexts that several tasks were given,
 * while one of them is polled in it.
 *
 * On free-threaded CPython 3.13 and 3.14 two threads that send to one coroutine can crash the interpreter: its own
 * "already executing" check is a plain read and write there. On every other build the claim makes the mistake show in
 * the same way. A task made with spawn(async_fn, *args) needs none, since nobody else ever sees its coroutine.
 *
 * THREADS    any attached. OWNERSHIP none: a claim lasts no longer than the task's own reference to the coroutine.
 * LOCKS      one per shard, a leaf. FORK the child starts with no claims and open locks.
 */
#include <stdlib.h>

#include "runtime.h"

enum { SHARDS = 64, FIRST_SIZE = 16 };

static struct claim_shard {
    _Alignas(64) struct fr_mutex lock;
    PyObject **slots; /* open addressing, linear probing; borrowed pointers */
    uint32_t size, used;
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

int fr_try_claim(PyObject *coro)
{
    struct claim_shard *shard = shard_of(coro);
    fr_mutex_lock(&shard->lock);
    int result = grow_locked(shard) ? 0 : -1;
    bool taken = false;
    if (result == 0) {
        uint32_t i = find_locked(shard, coro);
        taken = shard->slots[i] != NULL;
        shard->used += !taken;
        shard->slots[i] = coro;
    }
    fr_mutex_unlock(&shard->lock);
    if (result) {
        PyErr_NoMemory();
        return -1;
    }
    return !taken;
}

int fr_claim(PyObject *coro)
{
    int claimed = fr_try_claim(coro);
    if (claimed == 0) {
        PyErr_SetString(PyExc_RuntimeError, "argument 'coro' is a coroutine that another task runs already; call the "
                                            "async function again for a new one");
    }
    return claimed == 1 ? 0 : -1;
}

void fr_unclaim(PyObject *coro)
{
    struct claim_shard *shard = shard_of(coro);
    fr_mutex_lock(&shard->lock);
    uint32_t mask = shard->size - 1, hole = shard->size ? find_locked(shard, coro) : 0;
    if (!shard->size || !shard->slots[hole]) { /* claimed before a fork */
        fr_mutex_unlock(&shard->lock);
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
    fr_mutex_unlock(&shard->lock);
}

void fr_claims_after_fork(void)
{
    for (int i = 0; i < SHARDS; i++) { /* the tables may be half-written: leave them behind */
        shards[i] = (struct claim_shard){.size = 0};
    }
}
