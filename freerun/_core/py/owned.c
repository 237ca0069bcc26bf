/* owned: the tasks of a runtime that are not complete, in a list for each worker, of what it has spawned, and one for all other
 * threads. A worker passes its own list's sections alone (rt/bias.h) till another thread comes; then the list's lock is taken. */
#include <stdlib.h>

#include "runtime.h"

/* How a section was entered. */
enum pass { ALONE, LOCKED, VISITING };

static enum pass enter(struct fr_shard *shard, bool own)
{
    if (own && fr_bias_enter_owner(&shard->bias)) {
        return ALONE;
    }
    bool visiting = !own && shard->has_owner;
    if (visiting) {
        fr_bias_visit(&shard->bias);
    }
    fr_mutex_lock(&shard->lock);
    return visiting ? VISITING : LOCKED;
}

static void leave(struct fr_shard *shard, enum pass pass)
{
    if (pass == ALONE) {
        fr_bias_exit_owner(&shard->bias);
        return;
    }
    fr_mutex_unlock(&shard->lock);
    if (pass == VISITING) {
        fr_bias_leave(&shard->bias);
    }
}

/* The list that this thread owns; or that of all threads that are no workers here, and of the stand-in, which nobody owns. */
static uint32_t own_index(struct fr_runtime *rt)
{
    struct fr_worker *worker = fr_own_worker(rt);
    return worker ? worker->index : rt->nworkers; /* a stand-in's is nworkers, too */
}

void fr_owned_init(struct fr_shard *shard, bool has_owner)
{
    shard->has_owner = has_owner;
    fr_bias_init(&shard->bias);
    fr_mutex_init(&shard->lock);
    fr_list_init(&shard->tasks);
}

void fr_owned_close(struct fr_runtime *rt)
{
    for (uint32_t i = 0; i < rt->nshards; i++) {
        enum pass pass = enter(&rt->shards[i], false);
        rt->shards[i].closed = true;
        leave(&rt->shards[i], pass);
    }
}

bool fr_owned_add(struct fr_runtime *rt, struct fr_task *task, bool cleanup)
{
    task->shard = (uint16_t)(fr_task_is_call(task) ? rt->nworkers : own_index(rt)); /* a call ends on another thread */
    struct fr_shard *shard = &rt->shards[task->shard];
    enum pass pass = enter(shard, shard->has_owner);
    /* acquire: pairs with fr_shutdown(); cleanup of a task that is still listed keeps the shutdown waiting */
    bool open =
        !shard->closed || (cleanup && atomic_load_explicit(&rt->phase, memory_order_acquire) <= FR_PHASE_CANCELLING);
    if (open) {
        fr_list_push_back(&shard->tasks, &task->owned);
        shard->alive++;
        shard->spawned++;
        if (shard->closed) {
            atomic_fetch_add_explicit(&rt->done, 1, memory_order_release); /* pairs with fr_owned_none() */
        }
    }
    leave(shard, pass);
    return open;
}

void fr_owned_remove(struct fr_task *task)
{
    struct fr_runtime *rt = task->rt;
    struct fr_shard *shard = &rt->shards[task->shard];
    enum pass pass = enter(shard, shard->has_owner && own_index(rt) == task->shard);
    fr_list_remove(&task->owned);
    bool tell = --shard->alive == 0 && shard->closed;
    leave(shard, pass);
    if (tell) {
        /* release: pairs with wait_for_tasks() in shutdown.c */
        atomic_fetch_add_explicit(&rt->done, 1, memory_order_release);
        fr_futex_wake(&rt->done, 1);
        if (rt->current_thread) { /* the thread that waits is the one that runs the core */
            fr_shutdown_tick(rt);
            fr_unpark_worker(rt, 0);
        }
    }
}

struct fr_owned_counts fr_owned_count(struct fr_runtime *rt)
{
    struct fr_owned_counts counts = {0, 0};
    for (uint32_t i = 0; i < rt->nshards; i++) {
        struct fr_shard *shard = &rt->shards[i];
        enum pass pass = enter(shard, false);
        counts.alive += shard->alive;
        counts.spawned += shard->spawned;
        leave(shard, pass);
    }
    return counts;
}

/* The shards are counted one after the other, and a task that ends may have spawned its cleanup into one that was
 * counted before its own. It did so while it was listed: whoever saw it gone sees `done` changed, too. */
bool fr_owned_none(struct fr_runtime *rt)
{
    /* acquire, twice: pairs with fr_owned_add() */
    uint32_t before = atomic_load_explicit(&rt->done, memory_order_acquire);
    return fr_owned_count(rt).alive == 0 && atomic_load_explicit(&rt->done, memory_order_acquire) == before;
}

/* Every task of the shard, with references, or NULL (out of memory, or none); *n says how many. */
static struct fr_task **snapshot(struct fr_shard *shard, uint64_t *n)
{
    struct fr_task **tasks = NULL;
    enum pass pass = enter(shard, false);
    for (uint64_t room = 0; room < shard->alive;) { /* the list may grow while we allocate outside */
        room = shard->alive + shard->alive / 8 + 8;
        leave(shard, pass);
        free(tasks);
        tasks = malloc(room * sizeof(struct fr_task *));
        pass = enter(shard, false);
        if (!tasks) {
            break;
        }
    }
    *n = 0;
    for (struct fr_node *node = shard->tasks.next; tasks && node != &shard->tasks; node = node->next) {
        tasks[*n] = FR_CONTAINER_OF(node, struct fr_task, owned);
        fr_task_ref(tasks[(*n)++]);
    }
    leave(shard, pass);
    return tasks;
}

/* Of all shards first: what a visit lets somebody make, a file's request in the cleanup of a task that a shutdown aborts, is not
 * visited. */
void fr_owned_each(struct fr_runtime *rt, void (*visit)(struct fr_task *task, void *arg), void *arg)
{
    struct fr_task **tasks[FR_MAX_WORKERS + 1];
    uint64_t n[FR_MAX_WORKERS + 1];
    for (uint32_t i = 0; i < rt->nshards; i++) {
        tasks[i] = snapshot(&rt->shards[i], &n[i]);
    }
    for (uint32_t i = 0; i < rt->nshards; i++) {
        for (uint64_t k = 0; k < n[i]; k++) {
            visit(tasks[i][k], arg);
            fr_task_unref(tasks[i][k]);
        }
        free(tasks[i]);
    }
}
