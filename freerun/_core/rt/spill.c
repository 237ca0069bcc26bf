#include "spill.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

struct fr_spill_chunk {
    struct fr_spill_chunk *next;
    uint32_t begin, end; /* items[begin..end) are in it */
    void *items[FR_SPILL_CHUNK];
};

void fr_spill_init(struct fr_spill *spill)
{
    fr_mutex_init(&spill->lock);
    atomic_init(&spill->len, 0);
    spill->head = spill->tail = spill->spare = NULL;
}

static void free_chunks(struct fr_spill_chunk *chunk)
{
    while (chunk) {
        struct fr_spill_chunk *next = chunk->next;
        free(chunk);
        chunk = next;
    }
}

void fr_spill_destroy(struct fr_spill *spill)
{
    free_chunks(spill->head);
    free(spill->spare);
    fr_spill_init(spill);
}

int fr_spill_reserve_owner(struct fr_spill *spill)
{
    if (!spill->spare) {
        spill->spare = calloc(1, sizeof(struct fr_spill_chunk));
    }
    return spill->spare ? 0 : -ENOMEM;
}

/* As many of the items as it has room for; how many. */
static uint32_t fill(struct fr_spill_chunk *chunk, void *const *items, uint32_t n)
{
    uint32_t room = FR_SPILL_CHUNK - chunk->end;
    n = n < room ? n : room;
    memcpy(chunk->items + chunk->end, items, n * sizeof *items);
    chunk->end += n;
    return n;
}

static void append_locked(struct fr_spill *spill, struct fr_spill_chunk *chunk)
{
    chunk->next = NULL;
    chunk->begin = chunk->end = 0;
    if (spill->tail) {
        spill->tail->next = chunk;
    } else {
        spill->head = chunk;
    }
    spill->tail = chunk;
}

static void add_len_locked(struct fr_spill *spill, uint32_t n)
{
    /* relaxed: written under the lock only; release: [SP1] */
    uint32_t len = atomic_load_explicit(&spill->len, memory_order_relaxed);
    atomic_store_explicit(&spill->len, len + n, memory_order_release);
}

void fr_spill_push_owner(struct fr_spill *spill, void *const *items, uint32_t n)
{
    assert(n >= 1 && n <= FR_SPILL_CHUNK && spill->spare);
    fr_mutex_lock(&spill->lock);
    uint32_t done = spill->tail ? fill(spill->tail, items, n) : 0;
    if (done < n) {
        append_locked(spill, spill->spare); /* [SP2] */
        spill->spare = NULL;
        fill(spill->tail, items + done, n - done);
    }
    add_len_locked(spill, n);
    fr_mutex_unlock(&spill->lock);
}

/* Some of the first chunk's; the chunk, out of the list, if that was all of them. */
static struct fr_spill_chunk *take_locked(struct fr_spill *spill, void **items, uint32_t most, uint32_t *n)
{
    struct fr_spill_chunk *chunk = spill->head;
    uint32_t have = chunk->end - chunk->begin;
    *n = have < most ? have : most;
    memcpy(items, chunk->items + chunk->begin, *n * sizeof *items);
    chunk->begin += *n; /* [SP3] */
    if (*n < have) {
        return NULL;
    }
    spill->head = chunk->next;
    spill->tail = chunk->next ? spill->tail : NULL;
    return chunk;
}

/* `*empty`: chunks that are nobody's now. */
static uint32_t take(struct fr_spill *spill, void **items, uint32_t most, struct fr_spill_chunk **empty)
{
    uint32_t total = 0;
    /* relaxed: a look that saves the lock. The owner, which alone adds, is sure of it; of the others, who must not overlook an
     * item has called fr_spill_len() */
    if (!atomic_load_explicit(&spill->len, memory_order_relaxed)) {
        return 0;
    }
    fr_mutex_lock(&spill->lock);
    while (spill->head && total < most) {
        uint32_t n;
        struct fr_spill_chunk *chunk = take_locked(spill, items + total, most - total, &n);
        total += n;
        if (chunk) {
            chunk->next = *empty;
            *empty = chunk;
        }
    }
    add_len_locked(spill, -total);
    fr_mutex_unlock(&spill->lock);
    return total;
}

uint32_t fr_spill_take(struct fr_spill *spill, void **items, uint32_t most)
{
    struct fr_spill_chunk *empty = NULL;
    uint32_t n = take(spill, items, most, &empty);
    free_chunks(empty);
    return n;
}

uint32_t fr_spill_take_owner(struct fr_spill *spill, void **items, uint32_t most)
{
    struct fr_spill_chunk *empty = NULL;
    uint32_t n = take(spill, items, most, &empty);
    if (empty && !spill->spare) {
        spill->spare = empty;
        empty = empty->next;
    }
    free_chunks(empty);
    return n;
}
