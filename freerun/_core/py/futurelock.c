/* futurelock: tasks that were granted a lock and do not look at it; see futurelock.h. */
#include "futurelock.h"

#include <stdlib.h>

#include "rt/clock.h"
#include "strand.h"

struct fr_suspect {
    struct fr_suspect *next;
    struct fr_task *task;
    uint64_t since_ns;
    bool reported;
};

static struct fr_suspect *find_locked(struct fr_runtime *rt, struct fr_task *task)
{
    struct fr_suspect *each = rt->suspects;
    while (each && each->task != task) {
        each = each->next;
    }
    return each;
}

static bool is_wanted(struct fr_runtime *rt)
{
    return rt->has_watch && rt->futurelock_ns && rt->hooks.futurelock;
}

void fr_futurelock_suspect(struct fr_runtime *rt, struct fr_task *task)
{
    struct fr_suspect *suspect = is_wanted(rt) ? malloc(sizeof *suspect) : NULL;
    if (!suspect) {
        return;
    }
    *suspect = (struct fr_suspect){.task = task, .since_ns = fr_clock_ns()};
    fr_mutex_lock(&rt->suspects_lock);
    bool known = find_locked(rt, task) != NULL;
    if (!known) {
        fr_task_ref(task);
        suspect->next = rt->suspects;
        rt->suspects = suspect;
        atomic_store(&rt->has_suspects, true); /* seq_cst: [FL1] */
    }
    fr_mutex_unlock(&rt->suspects_lock);
    if (known) {
        free(suspect);
    } else {
        fr_watch_nudge(rt);
    }
}

/* It is listed; if it had looked at all that it was granted before, from now on. */
static bool is_listed(struct fr_runtime *rt, struct fr_task *task)
{
    fr_mutex_lock(&rt->suspects_lock);
    struct fr_suspect *found = find_locked(rt, task);
    if (found && atomic_load_explicit(&task->unseen, memory_order_relaxed) <= 1) {
        found->since_ns = fr_clock_ns();
        found->reported = false;
    }
    fr_mutex_unlock(&rt->suspects_lock);
    return found != NULL;
}

void fr_futurelock_strand(struct fr_task *strand)
{
    struct fr_runtime *rt = strand->rt;
    bool foreign = fr_foreign_begin(rt);
    if (fr_strand_is_of(strand, rt) && is_wanted(rt) && !is_listed(rt, strand)) {
        fr_futurelock_suspect(rt, strand);
    }
    fr_foreign_end(rt, foreign);
}

static bool is_over(struct fr_runtime *rt, struct fr_suspect *suspect, uint64_t now)
{
    if (fr_state_load(&suspect->task->state) & FR_COMPLETE) {
        return true;
    }
    bool kept = suspect->task->kind == FR_TASK_STRAND && now - suspect->since_ns < rt->futurelock_ns;
    return !kept && !fr_has_unseen(suspect->task);
}

static void free_all(struct fr_suspect *suspects)
{
    while (suspects) {
        struct fr_suspect *next = suspects->next;
        fr_task_unref(suspects->task);
        free(suspects);
        suspects = next;
    }
}

/* Takes out those that have looked; one of those that are to be reported, with a reference, or NULL. */
static struct fr_task *sift(struct fr_runtime *rt, uint64_t now, uint64_t *for_ns)
{
    struct fr_suspect *over = NULL, *found = NULL;
    fr_mutex_lock(&rt->suspects_lock);
    for (struct fr_suspect **link = &rt->suspects; *link;) {
        struct fr_suspect *each = *link;
        if (is_over(rt, each, now)) {
            *link = each->next;
            each->next = over;
            over = each;
            continue;
        }
        if (!found && !each->reported && now - each->since_ns >= rt->futurelock_ns) {
            found = each;
        }
        link = &each->next;
    }
    struct fr_task *task = found ? found->task : NULL;
    if (found) {
        found->reported = true;
        *for_ns = now - found->since_ns;
        fr_task_ref(task);
    }
    atomic_store(&rt->has_suspects, rt->suspects != NULL); /* seq_cst: [FL1] */
    fr_mutex_unlock(&rt->suspects_lock);
    free_all(over);
    return task;
}

/* What is around a strand, or a branch, or is that itself: with a reference, or NULL: it has ended meanwhile. */
static struct fr_task *root_of(struct fr_task *task)
{
    fr_task_ref(task);
    while (task && (task->kind == FR_TASK_STRAND || task->kind == FR_TASK_BRANCH)) {
        struct fr_task *around =
            task->kind == FR_TASK_STRAND ? fr_strand_owner_ref(task) : fr_branch_of(task)->set->owner;
        if (task->kind == FR_TASK_BRANCH) {
            fr_task_ref(around);
        }
        fr_task_unref(task);
        task = around;
    }
    return task;
}

/* The task around that strand is being polled, or is to be: it may look yet. */
static void look_again(struct fr_runtime *rt, struct fr_task *strand)
{
    fr_mutex_lock(&rt->suspects_lock);
    struct fr_suspect *found = find_locked(rt, strand);
    if (found) {
        found->since_ns = fr_clock_ns();
        found->reported = false;
    }
    fr_mutex_unlock(&rt->suspects_lock);
}

/* Attached. */
static void call_hook(struct fr_runtime *rt, PyObject *description, PyObject *coro, unsigned long long thread,
                      uint64_t for_ns)
{
    PyObject *done = description ? PyObject_CallFunction(rt->hooks.futurelock, "OOKd", description, coro, thread,
                                                         (double)for_ns * 1e-9)
                                 : NULL;
    if (!done) {
        PyErr_WriteUnraisable(rt->hooks.futurelock);
    }
    Py_XDECREF(done);
}

/* Its frames may be read only while nobody runs it [T1]. `strand`: it is in what a stream of the task has begun. */
static void report(struct fr_runtime *rt, PyThreadState *state, struct fr_task *task, bool strand, uint64_t for_ns)
{
    PyEval_RestoreThread(state);
    PyObject *description = fr_task_describe(rt->mod, task);
    if (description && PyDict_SetItemString(description, "in_stream", strand ? Py_True : Py_False)) {
        Py_CLEAR(description);
    }
    bool locked = fr_state_try_lock_idle(&task->state);
    PyObject *coro = locked && task->kind == FR_TASK_CORO ? task->coro : Py_None;
    call_hook(rt, description, coro, 0, for_ns);
    Py_XDECREF(description);
    if (locked && fr_state_end_poll(&task->state)) {
        fr_schedule(rt, task);
    }
    PyEval_SaveThread();
}

void fr_futurelock_look(struct fr_runtime *rt, PyThreadState *state)
{
    struct fr_task *task;
    uint64_t for_ns = 0;
    while (fr_has_suspects(rt) && (task = sift(rt, fr_clock_ns(), &for_ns))) {
        bool strand = task->kind == FR_TASK_STRAND;
        struct fr_task *root = strand ? root_of(task) : task;
        if (strand && root && !fr_state_is_idle(fr_state_load(&root->state))) {
            look_again(rt, task);
        } else if (root) {
            report(rt, state, root, strand, for_ns);
        }
        if (strand && root) {
            fr_task_unref(root);
        }
        fr_task_unref(task);
    }
}

struct find {
    uint64_t id;
    struct fr_module *mod;
    PyObject *description;
};

static void find_granted(struct fr_task *task, void *arg)
{
    struct find *find = arg;
    if (task->id == find->id && !find->description && fr_has_unseen(task)) {
        find->description = fr_task_describe(find->mod, task);
    }
}

void fr_futurelock_stuck(struct fr_runtime *rt, PyThreadState *state, uint64_t id, unsigned long long thread,
                         uint64_t for_ns)
{
    if (!rt->hooks.futurelock) {
        return;
    }
    struct find find = {.id = id, .mod = rt->mod};
    PyEval_RestoreThread(state);
    fr_owned_each(rt, find_granted, &find);
    if (find.description) {
        call_hook(rt, find.description, Py_None, thread, for_ns);
        Py_DECREF(find.description);
    } else {
        PyErr_Clear();
    }
    PyEval_SaveThread();
}

void fr_futurelock_drop(struct fr_runtime *rt)
{
    fr_mutex_lock(&rt->suspects_lock);
    struct fr_suspect *suspects = rt->suspects;
    rt->suspects = NULL;
    fr_mutex_unlock(&rt->suspects_lock);
    free_all(suspects);
}
