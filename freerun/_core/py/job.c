/* job: a call that is made in another interpreter, and the queue that leads there. See isolated.h. */
#include <errno.h>
#include <sched.h>
#include <stdlib.h>

#include "acquire.h"
#include "isolated.h"

enum job_state { QUEUED, RUNNING, DONE };
/* `kind` of a reply; freerun/interp/_parcel.py has the same. */
enum reply_kind { RETURNED, RAISED, CANCELLED, LOST, REPLY_KINDS };

/* A worker in progress: lies on the queue while its interpreter may be visited. */
struct job_worker {
    struct job_worker *next;
    PyInterpreterState *interp;
    unsigned long thread;
    uint32_t visits; /* under the queue's workers_lock; detach() waits for 0 */
};

struct fr_job_queue {
    _Atomic uint32_t refs;
    _Atomic uint32_t outstanding; /* jobs that are not DONE */
    _Atomic int64_t grace_ns;     /* what the workers have for their end, once it is closed */
    uint64_t id;
    struct fr_mailbox box;
    struct fr_mutex workers_lock;
    struct job_worker *workers;
    struct fr_job_queue *next; /* under queues_lock */
};

struct fr_job {
    struct fr_mail mail;
    _Atomic uint32_t refs;
    struct fr_mutex lock;
    uint8_t state;
    uint8_t kind;
    bool aborted;
    struct fr_job_queue *queue;
    struct fr_parcel *args;
    struct fr_parcel *reply;
    struct fr_task *runner; /* a reference */
    struct fr_node waiters; /* the task that awaits it, if any */
};

typedef struct {
    PyObject_HEAD
    struct fr_job_queue *queue;
    struct job_worker *worker; /* after enlist() */
} JobQueueObject;

typedef struct {
    PyObject_HEAD
    struct fr_job *job;
    PyObject *finish; /* (kind, parcel or None) -> the result, or raises */
    struct fr_waiter waiter;
    struct fr_runtime *rt; /* where it counts as something that runs: a paused clock stands still meanwhile */
    _Atomic bool stepping;
    bool lined;
} JobObject;

typedef struct {
    PyObject_HEAD
    struct fr_job *job;
} WorkerJobObject;

/* ---- queues ---- */

static struct fr_mutex queues_lock = FR_MUTEX_INIT;
static struct fr_job_queue *queues;
static uint64_t last_queue_id;

void fr_isolated_after_fork(void)
{
    queues_lock = (struct fr_mutex)FR_MUTEX_INIT;
    queues = NULL; /* the parent's: what they hold is leaked */
}

static void queue_unref(struct fr_job_queue *queue)
{
    if (atomic_fetch_sub_explicit(&queue->refs, 1, memory_order_acq_rel) != 1) { /* pairs with itself */
        return;
    }
    fr_mutex_lock(&queues_lock);
    for (struct fr_job_queue **at = &queues; *at; at = &(*at)->next) {
        if (*at == queue) {
            *at = queue->next;
            break;
        }
    }
    fr_mutex_unlock(&queues_lock);
    free(queue);
}

/* One more reference to the queue with this id, unless it is on its way out. */
static struct fr_job_queue *queue_find(uint64_t id)
{
    fr_mutex_lock(&queues_lock);
    struct fr_job_queue *queue = queues;
    while (queue && queue->id != id) {
        queue = queue->next;
    }
    uint32_t refs = queue ? atomic_load_explicit(&queue->refs, memory_order_relaxed) : 0; /* validated by the CAS */
    /* relaxed: it is listed, so it was made; `queues_lock` says the rest */
    while (refs && !atomic_compare_exchange_weak_explicit(&queue->refs, &refs, refs + 1, memory_order_relaxed,
                                                          memory_order_relaxed)) {
    }
    fr_mutex_unlock(&queues_lock);
    return refs ? queue : NULL;
}

/* ---- jobs ---- */

static void job_unref(struct fr_job *job)
{
    if (atomic_fetch_sub_explicit(&job->refs, 1, memory_order_acq_rel) == 1) { /* pairs with itself */
        fr_parcel_free(job->args);
        fr_parcel_free(job->reply);
        if (job->runner) {
            fr_task_unref(job->runner);
        }
        queue_unref(job->queue);
        free(job);
    }
}

/* Ends it, if it still is in this state [IS1]. Takes the reply over. */
static bool job_done(struct fr_job *job, enum job_state from, enum reply_kind kind, struct fr_parcel *reply)
{
    struct fr_wakes wakes;
    struct fr_parcel *args = NULL;
    fr_wakes_init(&wakes);
    fr_mutex_lock(&job->lock);
    bool ours = job->state == from;
    if (ours) {
        job->state = DONE;
        job->kind = kind;
        job->reply = reply;
        args = job->args;
        job->args = NULL;
        if (!fr_list_is_empty(&job->waiters)) {
            fr_wakes_take_locked(&wakes, FR_CONTAINER_OF(fr_list_front(&job->waiters), struct fr_waiter, node));
        }
    }
    fr_mutex_unlock(&job->lock);
    if (ours) {
        atomic_fetch_sub_explicit(&job->queue->outstanding, 1, memory_order_relaxed); /* a number to look at */
    } else {
        fr_parcel_free(reply);
    }
    fr_parcel_free(args);
    fr_wakes_fire(&wakes, fr_acquire_wake);
    return ours;
}

static void job_abort(struct fr_job *job)
{
    if (job_done(job, QUEUED, CANCELLED, NULL)) {
        return;
    }
    fr_mutex_lock(&job->lock);
    struct fr_task *runner = job->state == RUNNING ? job->runner : NULL;
    job->aborted = true;
    if (runner) {
        fr_task_ref(runner);
    }
    fr_mutex_unlock(&job->lock);
    if (runner) { /* [IS2] */
        fr_task_abort(runner);
        fr_task_unref(runner);
    }
}

/* ---- Job: at home ---- */

static void job_count(JobObject *self, struct fr_runtime *rt)
{
    if (!self->rt) {
        self->rt = rt;
        atomic_fetch_add_explicit(&rt->blocking_running, 1, memory_order_relaxed); /* by the runtime's own worker */
    }
}

static void job_uncount(JobObject *self)
{
    if (self->rt) {
        atomic_fetch_sub_explicit(&self->rt->blocking_running, 1, memory_order_release); /* as pool_run_one() */
        self->rt = NULL;
    }
}

static PyObject *job_result(JobObject *self)
{
    struct fr_module *mod = fr_module_of_type(Py_TYPE((PyObject *)self));
    struct fr_job *job = self->job;
    job_uncount(self);
    fr_mutex_lock(&job->lock);
    struct fr_parcel *reply = job->reply;
    job->reply = NULL;
    int kind = job->kind;
    fr_mutex_unlock(&job->lock);
    fr_lender_drain(mod); /* what the arguments lent came back before the reply */
    PyObject *parcel = fr_parcel_object(mod, reply);
    PyObject *value = parcel ? PyObject_CallFunction(self->finish, "iO", kind, parcel) : NULL;
    Py_XDECREF(parcel);
    return value ? fr_leaf_return(value) : NULL;
}

/* True: it is DONE. False: its end will wake the task. */
static bool job_link(JobObject *self, struct fr_task *task)
{
    struct fr_job *job = self->job;
    fr_mutex_lock(&job->lock);
    bool done = job->state == DONE;
    bool link = !done && !self->lined;
    if (link) {
        self->lined = true;
        self->waiter = (struct fr_waiter){.task = task};
        fr_task_ref(task);
        fr_waiter_link_locked(&job->waiters, &self->waiter);
    }
    fr_mutex_unlock(&job->lock);
    if (link) {
        fr_await_mail(task->rt);
    }
    return done;
}

static void job_unlink(JobObject *self)
{
    if (self->lined) {
        self->lined = false;
        fr_mutex_lock(&self->job->lock);
        bool linked = fr_waiter_unlink_locked(&self->waiter);
        fr_mutex_unlock(&self->job->lock);
        if (linked) {
            fr_task_unref(self->waiter.task);
        }
    }
}

static PyObject *job_step(JobObject *self)
{
    struct fr_task *task = fr_leaf_task();
    if (!task || !fr_leaf_enter(&self->stepping)) {
        return NULL;
    }
    job_count(self, task->rt);
    bool done = job_link(self, task);
    fr_leaf_exit(&self->stepping);
    return done ? job_result(self) : fr_leaf_park();
}

static PyObject *job_iternext(PyObject *op)
{
    return job_step((JobObject *)op);
}

/* An abort goes over there, and what comes of it is awaited. */
static PyObject *job_throw(PyObject *op, PyObject *const *args, Py_ssize_t nargs)
{
    JobObject *self = (JobObject *)op;
    struct fr_module *mod = fr_module_of_type(Py_TYPE(op));
    if (nargs < 1 || !PyErr_GivenExceptionMatches(args[0], mod->exc_cancelled)) {
        return fr_leaf_raise(args, nargs);
    }
    job_abort(self->job);
    return job_step(self);
}

static PyObject *job_close(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    JobObject *self = (JobObject *)op;
    job_abort(self->job);
    if (fr_leaf_try_enter(&self->stepping)) {
        job_unlink(self);
        job_uncount(self);
        fr_leaf_exit(&self->stepping);
    }
    Py_RETURN_NONE;
}

static void job_dealloc(PyObject *op)
{
    JobObject *self = (JobObject *)op;
    PyTypeObject *type = Py_TYPE(op);
    job_unlink(self);
    job_uncount(self);
    job_abort(self->job); /* [IS3] */
    job_unref(self->job);
    Py_XDECREF(self->finish);
    type->tp_free(op);
    Py_DECREF(type);
}

static PyMethodDef job_methods[] = {
    {"throw", (PyCFunction)(void (*)(void))job_throw, METH_FASTCALL,
     "For the task that runs it: Cancelled aborts the job, whose end is still awaited."},
    {"close", job_close, METH_NOARGS, "Abort it, and do not wait."},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot job_slots[] = {
    {Py_tp_doc, "A call in another interpreter, as the one who made it sees it: spawn() it."},
    {Py_tp_dealloc, job_dealloc},
    {Py_tp_methods, job_methods},
    FR_LEAF_SLOTS(job_iternext),
    {0, NULL},
};

static PyType_Spec job_spec = {
    .name = "freerun._core._native.Job",
    .basicsize = sizeof(JobObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = job_slots,
};

/* ---- WorkerJob: over there ---- */

static PyObject *worker_job_parcel(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    struct fr_job *job = ((WorkerJobObject *)op)->job;
    fr_mutex_lock(&job->lock);
    struct fr_parcel *args = job->args;
    job->args = NULL;
    fr_mutex_unlock(&job->lock);
    return fr_parcel_object(fr_module_of_type(Py_TYPE(op)), args);
}

static PyObject *worker_job_bind(PyObject *op, PyObject *handle)
{
    struct fr_job *job = ((WorkerJobObject *)op)->job;
    if (!Py_IS_TYPE(handle, fr_module_of_type(Py_TYPE(op))->handle_type)) {
        PyErr_Format(PyExc_TypeError, "argument 'handle' must be a JoinHandle, not %.200s", Py_TYPE(handle)->tp_name);
        return NULL;
    }
    struct fr_task *task = fr_handle_task(handle);
    fr_task_ref(task);
    fr_mutex_lock(&job->lock);
    struct fr_task *before = job->runner;
    job->runner = task;
    bool aborted = job->aborted;
    fr_mutex_unlock(&job->lock);
    if (before) {
        fr_task_unref(before);
    }
    if (aborted) {
        fr_task_abort(task); /* the handle holds it */
    }
    Py_RETURN_NONE;
}

static PyObject *worker_job_reply(PyObject *op, PyObject *args)
{
    int kind;
    PyObject *object = Py_None;
    struct fr_module *mod = fr_module_of_type(Py_TYPE(op));
    if (!PyArg_ParseTuple(args, "i|O:reply", &kind, &object)) {
        return NULL;
    }
    if (kind < 0 || kind >= REPLY_KINDS) {
        PyErr_Format(PyExc_ValueError, "argument 'kind' must be 0 to %d: %d", REPLY_KINDS - 1, kind);
        return NULL;
    }
    struct fr_parcel *reply = NULL;
    if (object != Py_None && !(reply = fr_parcel_take(mod, object))) {
        return NULL;
    }
    job_done(((WorkerJobObject *)op)->job, RUNNING, (enum reply_kind)kind, reply);
    Py_RETURN_NONE;
}

static void worker_job_dealloc(PyObject *op)
{
    WorkerJobObject *self = (WorkerJobObject *)op;
    PyTypeObject *type = Py_TYPE(op);
    struct fr_job *job = self->job;
    fr_mutex_lock(&job->lock);
    bool aborted = job->aborted;
    fr_mutex_unlock(&job->lock);
    job_done(job, RUNNING, aborted ? CANCELLED : LOST, NULL); /* [IS3] */
    job_unref(job);
    type->tp_free(op);
    Py_DECREF(type);
}

static PyMethodDef worker_job_methods[] = {
    {"parcel", worker_job_parcel, METH_NOARGS, "parcel($self, /)\n--\n\nFunction and arguments; None the second time."},
    {"bind", worker_job_bind, METH_O, "bind($self, handle, /)\n--\n\nAn abort of the job aborts this task."},
    {"reply", worker_job_reply, METH_VARARGS,
     "reply($self, kind, parcel=None, /)\n--\n\nEnd it. The first reply counts; who drops the job without one has lost "
     "it."},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot worker_job_slots[] = {
    {Py_tp_doc, "A call in another interpreter, as the one who carries it out sees it."},
    {Py_tp_dealloc, worker_job_dealloc},
    {Py_tp_methods, worker_job_methods},
    {0, NULL},
};

static PyType_Spec worker_job_spec = {
    .name = "freerun._core._native.WorkerJob",
    .basicsize = sizeof(WorkerJobObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = worker_job_slots,
};

/* ---- JobQueue ---- */

static PyObject *queue_object(PyTypeObject *type, struct fr_job_queue *queue)
{
    JobQueueObject *self = (JobQueueObject *)type->tp_alloc(type, 0);
    if (self) {
        self->queue = queue;
        self->worker = NULL;
    } else {
        queue_unref(queue);
    }
    return (PyObject *)self;
}

static PyObject *queue_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *keywords[] = {NULL};
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, ":JobQueue", keywords)) {
        return NULL;
    }
    fr_isolated_allow_fork();
    struct fr_job_queue *queue = calloc(1, sizeof *queue);
    if (!queue) {
        return PyErr_NoMemory();
    }
    atomic_init(&queue->refs, 1);
    fr_mailbox_init(&queue->box, UINT64_MAX, fr_acquire_wake);
    fr_mutex_lock(&queues_lock);
    queue->id = ++last_queue_id;
    queue->next = queues;
    queues = queue;
    fr_mutex_unlock(&queues_lock);
    return queue_object(type, queue);
}

static PyObject *queue_attach(PyObject *type, PyObject *id)
{
    unsigned long long number = PyLong_AsUnsignedLongLong(id);
    struct fr_job_queue *queue = PyErr_Occurred() ? NULL : queue_find(number);
    if (!queue) {
        if (!PyErr_Occurred()) {
            PyErr_Format(PyExc_LookupError, "there is no queue %llu any more", number);
        }
        return NULL;
    }
    return queue_object((PyTypeObject *)type, queue);
}

static struct fr_job *job_new(struct fr_job_queue *queue)
{
    struct fr_job *job = calloc(1, sizeof *job);
    if (!job) {
        PyErr_NoMemory();
        return NULL;
    }
    atomic_init(&job->refs, 2); /* the queue's and the Job's */
    job->queue = queue;
    fr_list_init(&job->waiters);
    /* relaxed, twice: the caller holds one; a number to look at */
    atomic_fetch_add_explicit(&queue->refs, 1, memory_order_relaxed);
    atomic_fetch_add_explicit(&queue->outstanding, 1, memory_order_relaxed);
    return job;
}

static PyObject *job_object(struct fr_module *mod, struct fr_job *job, PyObject *finish)
{
    JobObject *self = (JobObject *)mod->job_type->tp_alloc(mod->job_type, 0);
    if (self) {
        self->job = job;
        self->finish = Py_NewRef(finish);
        self->rt = NULL;
        self->lined = false;
        atomic_init(&self->stepping, false);
    }
    return (PyObject *)self;
}

static PyObject *queue_submit(PyObject *op, PyObject *args)
{
    struct fr_module *mod = fr_module_of_type(Py_TYPE(op));
    PyObject *object, *finish;
    if (!PyArg_ParseTuple(args, "OO:submit", &object, &finish)) {
        return NULL;
    }
    struct fr_job *job = job_new(((JobQueueObject *)op)->queue);
    PyObject *self = job ? job_object(mod, job, finish) : NULL;
    struct fr_parcel *parcel = self ? fr_parcel_take(mod, object) : NULL;
    if (!parcel) {
        if (job) {
            job_unref(job);
        }
        if (self) {
            Py_DECREF(self); /* aborts it: it counts no more */
        } else if (job) {
            atomic_fetch_sub_explicit(&job->queue->outstanding, 1, memory_order_relaxed);
            job_unref(job);
        }
        return NULL;
    }
    job->args = parcel;
    if (fr_mailbox_push(&job->queue->box, &job->mail)) {
        job_unref(job);
        Py_DECREF(self);
        PyErr_SetString(mod->exc_shutdown, "the runtime is shutting down: it takes no isolated work any more");
        return NULL;
    }
    return self;
}

/* QUEUED to RUNNING; false: it was aborted meanwhile. */
static bool job_begin(struct fr_job *job)
{
    fr_mutex_lock(&job->lock);
    bool queued = job->state == QUEUED;
    if (queued) {
        job->state = RUNNING;
    }
    fr_mutex_unlock(&job->lock);
    return queued;
}

static PyObject *worker_job_object(struct fr_module *mod, struct fr_job *job)
{
    WorkerJobObject *self = (WorkerJobObject *)mod->worker_job_type->tp_alloc(mod->worker_job_type, 0);
    if (!self) {
        job_done(job, RUNNING, LOST, NULL);
        job_unref(job);
        return NULL;
    }
    self->job = job;
    return (PyObject *)self;
}

/* False with an exception. */
static bool parse_load(PyObject *load, uint32_t *number)
{
    long value = PyLong_AsLong(load);
    if (value < 0 || value > INT32_MAX) {
        if (!PyErr_Occurred()) {
            PyErr_Format(PyExc_ValueError, "argument 'load' must be 0 to 2**31 - 1: %ld", value);
        }
        return false;
    }
    *number = (uint32_t)value;
    return true;
}

static PyObject *queue_pop(PyObject *op, PyObject *load)
{
    struct fr_module *mod = fr_module_of_type(Py_TYPE(op));
    int err;
    uint32_t number;
    struct fr_mail *mail;
    if (!parse_load(load, &number)) {
        return NULL;
    }
    while ((mail = fr_mailbox_pop(&((JobQueueObject *)op)->queue->box, number, &err))) {
        struct fr_job *job = FR_CONTAINER_OF(mail, struct fr_job, mail);
        if (job_begin(job)) {
            return worker_job_object(mod, job);
        }
        job_unref(job);
    }
    if (err == -EAGAIN) {
        Py_RETURN_NONE;
    }
    PyErr_SetString(mod->exc_recv, "the queue is closed, and empty");
    return NULL;
}

static PyObject *queue_reserve(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    fr_mailbox_reserve(&((JobQueueObject *)op)->queue->box);
    Py_RETURN_NONE;
}

static PyObject *queue_unreserve(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    fr_mailbox_unreserve(&((JobQueueObject *)op)->queue->box);
    Py_RETURN_NONE;
}

static PyObject *queue_wait(PyObject *op, PyObject *load)
{
    uint32_t number;
    if (!parse_load(load, &number)) {
        return NULL;
    }
    return fr_box_wait_new(fr_module_of_type(Py_TYPE(op)), op, &((JobQueueObject *)op)->queue->box, FR_MAILBOX_TAKERS,
                           number);
}

static PyObject *queue_enlist(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    JobQueueObject *self = (JobQueueObject *)op;
    struct job_worker *worker = self->worker ? NULL : malloc(sizeof *worker);
    if (!worker) {
        return self->worker ? Py_NewRef(Py_None) : PyErr_NoMemory();
    }
    *worker = (struct job_worker){.interp = PyInterpreterState_Get(), .thread = PyThread_get_thread_ident()};
    fr_mutex_lock(&self->queue->workers_lock);
    worker->next = self->queue->workers;
    self->queue->workers = worker;
    fr_mutex_unlock(&self->queue->workers_lock);
    self->worker = worker;
    Py_RETURN_NONE;
}

/* True: nobody visits it, and it is off the list. */
static bool try_delist(struct fr_job_queue *queue, struct job_worker *worker)
{
    fr_mutex_lock(&queue->workers_lock);
    bool alone = worker->visits == 0;
    for (struct job_worker **at = &queue->workers; alone && *at; at = &(*at)->next) {
        if (*at == worker) {
            *at = worker->next;
            break;
        }
    }
    fr_mutex_unlock(&queue->workers_lock);
    return alone;
}

static PyObject *queue_delist(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    JobQueueObject *self = (JobQueueObject *)op;
    struct job_worker *worker = self->worker;
    self->worker = NULL;
    if (worker) {
        while (!try_delist(self->queue, worker)) {
            PyThreadState *state = PyEval_SaveThread(); /* the visitor wants to attach */
            sched_yield();
            PyEval_RestoreThread(state);
        }
        free(worker);
    }
    Py_RETURN_NONE;
}

/* The worker whose number this is, held in place; NULL: there are no more. */
static struct job_worker *visit_worker(struct fr_job_queue *queue, uint32_t number)
{
    fr_mutex_lock(&queue->workers_lock);
    struct job_worker *worker = queue->workers;
    while (worker && number--) {
        worker = worker->next;
    }
    if (worker) {
        worker->visits++;
    }
    fr_mutex_unlock(&queue->workers_lock);
    return worker;
}

static void raise_in(struct job_worker *worker)
{
    PyThreadState *state = PyThreadState_New(worker->interp);
    if (state) {
        PyThreadState *home = PyThreadState_Swap(state);
        PyThreadState_SetAsyncExc(worker->thread, PyExc_SystemExit);
        PyThreadState_Clear(state);
        PyThreadState_Swap(home);
        PyThreadState_Delete(state);
    }
}

static PyObject *queue_interrupt(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    struct fr_job_queue *queue = ((JobQueueObject *)op)->queue;
    struct job_worker *worker;
    for (uint32_t number = 0; (worker = visit_worker(queue, number)); number++) {
        raise_in(worker);
        fr_mutex_lock(&queue->workers_lock);
        worker->visits--;
        fr_mutex_unlock(&queue->workers_lock);
    }
    Py_RETURN_NONE;
}

static PyObject *queue_close(PyObject *op, PyObject *grace)
{
    double seconds = PyFloat_AsDouble(grace);
    if (seconds == -1.0 && PyErr_Occurred()) {
        return NULL;
    }
    struct fr_job_queue *queue = ((JobQueueObject *)op)->queue;
    int64_t ns = seconds > 1e9 ? INT64_MAX / 2 : seconds > 0 ? (int64_t)(seconds * 1e9) : 0;
    atomic_store_explicit(&queue->grace_ns, ns, memory_order_relaxed); /* the mailbox's lock publishes it */
    fr_mailbox_close(&queue->box);
    Py_RETURN_NONE;
}

static PyObject *queue_grace(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    /* relaxed: the mailbox's lock came between */
    int64_t ns = atomic_load_explicit(&((JobQueueObject *)op)->queue->grace_ns, memory_order_relaxed);
    return PyFloat_FromDouble((double)ns / 1e9);
}

static PyObject *queue_outstanding(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    /* relaxed: a number to look at */
    return PyLong_FromLong(
        (long)atomic_load_explicit(&((JobQueueObject *)op)->queue->outstanding, memory_order_relaxed));
}

static PyObject *queue_enlisted(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    struct fr_job_queue *queue = ((JobQueueObject *)op)->queue;
    long count = 0;
    fr_mutex_lock(&queue->workers_lock);
    for (struct job_worker *worker = queue->workers; worker; worker = worker->next) {
        count++;
    }
    fr_mutex_unlock(&queue->workers_lock);
    return PyLong_FromLong(count);
}

static PyObject *queue_get_id(PyObject *op, void *Py_UNUSED(closure))
{
    return PyLong_FromUnsignedLongLong(((JobQueueObject *)op)->queue->id);
}

static void queue_dealloc(PyObject *op)
{
    PyTypeObject *type = Py_TYPE(op);
    queue_unref(((JobQueueObject *)op)->queue);
    type->tp_free(op);
    Py_DECREF(type);
}

static PyMethodDef queue_methods[] = {
    {"attach", queue_attach, METH_O | METH_CLASS,
     "attach(id, /)\n--\n\nThe queue of another interpreter; LookupError."},
    {"submit", queue_submit, METH_VARARGS,
     "submit($self, parcel, finish, /)\n--\n\nA new Job, queued. `finish(kind, parcel or None)` makes its result."},
    {"pop", queue_pop, METH_O,
     "pop($self, load, /)\n--\n\nThe oldest WorkerJob, None if there is none now, RecvError once there will be "
     "none.\n\n"
     "One with a load leaves what reserve() keeps for others."},
    {"reserve", queue_reserve, METH_NOARGS, "reserve($self, /)\n--\n\nA worker is on its way: keep a job for it."},
    {"unreserve", queue_unreserve, METH_NOARGS, "unreserve($self, /)\n--\n\nIt has come, or will not come."},
    {"wait", queue_wait, METH_O,
     "wait($self, load, /)\n--\n\nAwait it until there may be a job. Of several that wait, the one with the least "
     "`load` is "
     "woken."},
    {"enlist", queue_enlist, METH_NOARGS, "enlist($self, /)\n--\n\nFrom now on interrupt() reaches this thread."},
    {"delist", queue_delist, METH_NOARGS, "delist($self, /)\n--\n\nNo more."},
    {"enlisted", queue_enlisted, METH_NOARGS, "enlisted($self, /)\n--\n\nHow many threads are."},
    {"interrupt", queue_interrupt, METH_NOARGS,
     "interrupt($self, /)\n--\n\nRaise SystemExit in the workers, at their next bytecode. Waits for those that are "
     "stuck in a "
     "call that holds their GIL."},
    {"close", queue_close, METH_O,
     "close($self, grace, /)\n--\n\nTake no more jobs. The workers have `grace` seconds to end what they have begun."},
    {"grace", queue_grace, METH_NOARGS, "grace($self, /)\n--\n\nWhat close() was given."},
    {"outstanding", queue_outstanding, METH_NOARGS, "outstanding($self, /)\n--\n\nHow many jobs have not ended."},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef queue_getset[] = {
    {"id", queue_get_id, NULL, "For attach().", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot queue_slots[] = {
    {Py_tp_doc, "JobQueue()\n--\n\nCalls on their way into other interpreters. Any thread."},
    {Py_tp_new, queue_new},
    {Py_tp_dealloc, queue_dealloc},
    {Py_tp_methods, queue_methods},
    {Py_tp_getset, queue_getset},
    {0, NULL},
};

static PyType_Spec queue_spec = {
    .name = "freerun._core._native.JobQueue",
    .basicsize = sizeof(JobQueueObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = queue_slots,
};

int fr_job_add_types(struct fr_module *mod)
{
    return fr_module_add_type(mod, &mod->job_queue_type, &queue_spec, "JobQueue") ||
                   fr_module_add_type(mod, &mod->job_type, &job_spec, "Job") ||
                   fr_module_add_type(mod, &mod->worker_job_type, &worker_job_spec, "WorkerJob")
               ? -1
               : 0;
}
