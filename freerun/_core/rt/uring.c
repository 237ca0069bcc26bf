#include "uring.h"

#include <errno.h>

#if __has_include(<linux/io_uring.h>)
#include <linux/io_uring.h>
#endif

#if defined(IORING_POLL_ADD_MULTI) && defined(IORING_ENTER_EXT_ARG)

#include <linux/time_types.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "mutex.h"

enum { SQ_ENTRIES = 8, CQ_ENTRIES = 4096 };

struct fr_uring {
    int fd;
    struct fr_mutex lock;
    _Atomic uint32_t *sq_tail, *sq_flags;
    uint32_t *sq_array;
    uint32_t sq_mask;
    struct io_uring_sqe *sqes;
    _Atomic uint32_t *cq_head, *cq_tail;
    uint32_t cq_mask;
    struct io_uring_cqe *cqes;
    void *rings;
    size_t rings_size, sqes_size;
};

static int enter(struct fr_uring *ring, uint32_t submit, uint32_t complete, uint32_t flags, void *arg, size_t size)
{
    long n = syscall(SYS_io_uring_enter, ring->fd, submit, complete, flags, arg, size);
    return n < 0 ? -errno : (int)n;
}

/* ---- set-up ---- */

static void *map(struct fr_uring *ring, size_t size, uint64_t offset)
{
    void *memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, ring->fd, (off_t)offset);
    if (memory == MAP_FAILED) {
        return NULL;
    }
    madvise(memory, size, MADV_DONTFORK);
    return memory;
}

static int map_all(struct fr_uring *ring, const struct io_uring_params *p)
{
    size_t sq = p->sq_off.array + p->sq_entries * sizeof(uint32_t);
    size_t cq = p->cq_off.cqes + p->cq_entries * sizeof(struct io_uring_cqe);
    ring->rings_size = sq > cq ? sq : cq;
    ring->sqes_size = p->sq_entries * sizeof(struct io_uring_sqe);
    ring->rings = map(ring, ring->rings_size, IORING_OFF_SQ_RING);
    ring->sqes = map(ring, ring->sqes_size, IORING_OFF_SQES);
    if (!ring->rings || !ring->sqes) {
        return -ENOMEM;
    }
    char *base = ring->rings;
    ring->sq_tail = (_Atomic uint32_t *)(base + p->sq_off.tail);
    ring->sq_flags = (_Atomic uint32_t *)(base + p->sq_off.flags);
    ring->sq_array = (uint32_t *)(base + p->sq_off.array);
    ring->sq_mask = *(uint32_t *)(base + p->sq_off.ring_mask);
    ring->cq_head = (_Atomic uint32_t *)(base + p->cq_off.head);
    ring->cq_tail = (_Atomic uint32_t *)(base + p->cq_off.tail);
    ring->cq_mask = *(uint32_t *)(base + p->cq_off.ring_mask);
    ring->cqes = (struct io_uring_cqe *)(base + p->cq_off.cqes);
    return 0;
}

int fr_uring_new(struct fr_uring **out)
{
    const uint32_t needed = IORING_FEAT_SINGLE_MMAP | IORING_FEAT_NODROP | IORING_FEAT_EXT_ARG | IORING_FEAT_RSRC_TAGS;
    struct io_uring_params params = {.flags = IORING_SETUP_CQSIZE | IORING_SETUP_CLAMP, .cq_entries = CQ_ENTRIES};
    struct fr_uring *ring = calloc(1, sizeof *ring);
    if (!ring) {
        return -ENOMEM;
    }
    ring->fd = (int)syscall(SYS_io_uring_setup, SQ_ENTRIES, &params);
    int err = ring->fd < 0 ? -errno : 0;
    if (!err && (params.features & needed) != needed) { /* RSRC_TAGS came with 5.13, as multishot poll did */
        err = -EOPNOTSUPP;
    }
    err = err ? err : map_all(ring, &params);
    if (err) {
        fr_uring_free(ring);
        ring = NULL;
    }
    *out = ring;
    return err;
}

void fr_uring_free(struct fr_uring *ring)
{
    if (ring->rings) {
        munmap(ring->rings, ring->rings_size);
    }
    if (ring->sqes) {
        munmap(ring->sqes, ring->sqes_size);
    }
    if (ring->fd >= 0) {
        close(ring->fd);
    }
    free(ring);
}

/* ---- submission ---- */

/* EBUSY and EAGAIN: completions wait for room, or the kernel for memory. The owner of the driver makes room. */
static bool worth_another_try(int err)
{
    return err == -EINTR || err == -EBUSY || err == -EAGAIN;
}

/* The kernel has consumed the entry, or -errno and it never was there. */
static int submit_locked(struct fr_uring *ring, const struct io_uring_sqe *sqe)
{
    uint32_t tail = atomic_load_explicit(ring->sq_tail, memory_order_relaxed); /* only we write it, under the lock */
    ring->sqes[tail & ring->sq_mask] = *sqe;
    ring->sq_array[tail & ring->sq_mask] = tail & ring->sq_mask;
    /* release: pairs with the kernel's acquire of the tail */
    atomic_store_explicit(ring->sq_tail, tail + 1, memory_order_release);
    int n = enter(ring, 1, 0, 0, NULL, 0);
    if (n < 1) {                                                          /* [U1] */
        atomic_store_explicit(ring->sq_tail, tail, memory_order_release); /* the same */
    }
    return n == 0 ? -EAGAIN : n;
}

static int submit(struct fr_uring *ring, const struct io_uring_sqe *sqe)
{
    int n;
    for (;;) {
        fr_mutex_lock(&ring->lock);
        n = submit_locked(ring, sqe);
        fr_mutex_unlock(&ring->lock);
        if (!worth_another_try(n)) {
            return n < 0 ? n : 0;
        }
        sched_yield();
    }
}

/* What epoll refuses, too: such a file is always ready. */
static bool is_pollable(int fd)
{
    struct stat status;
    return fstat(fd, &status) == 0 && !S_ISREG(status.st_mode) && !S_ISDIR(status.st_mode);
}

int fr_uring_poll_add(struct fr_uring *ring, int fd, uint32_t events, uint64_t token)
{
    if (!is_pollable(fd)) {
        return -EPERM;
    }
    uint32_t bits = events & ~(uint32_t)EPOLLET; /* a multishot poll reports edges by itself */
#if __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
    bits = bits << 16 | bits >> 16;
#endif
    struct io_uring_sqe sqe = {.opcode = IORING_OP_POLL_ADD,
                               .fd = fd,
                               .len = IORING_POLL_ADD_MULTI,
                               .poll32_events = bits,
                               .user_data = token};
    return submit(ring, &sqe);
}

/* Not POLL_REMOVE: that one gives up on a request whose completion is being posted, and leaves it armed. */
void fr_uring_poll_remove(struct fr_uring *ring, uint64_t token)
{
    struct io_uring_sqe sqe = {.opcode = IORING_OP_ASYNC_CANCEL, .fd = -1, .addr = token, .user_data = 0};
    submit(ring, &sqe);
}

/* ---- files ---- */

int fr_uring_file(struct fr_uring *ring, const struct fr_file_request *request, uint64_t token)
{
    static const uint8_t opcodes[] = {[FR_FILE_READ] = IORING_OP_READ,
                                      [FR_FILE_WRITE] = IORING_OP_WRITE,
                                      [FR_FILE_SYNC] = IORING_OP_FSYNC,
                                      [FR_FILE_OPEN] = IORING_OP_OPENAT,
                                      [FR_FILE_STAT] = IORING_OP_STATX};
    struct io_uring_sqe sqe = {.opcode = opcodes[request->kind],
                               .flags = request->async ? IOSQE_ASYNC : 0,
                               .fd = request->fd,
                               .addr = (uint64_t)(uintptr_t)request->address,
                               .len = request->length,
                               .user_data = token};
    switch (request->kind) {
    case FR_FILE_READ:
    case FR_FILE_WRITE:
        sqe.off = (uint64_t)request->offset;
        break;
    case FR_FILE_SYNC:
        sqe.fsync_flags = request->flags ? IORING_FSYNC_DATASYNC : 0;
        break;
    case FR_FILE_OPEN:
        sqe.len = request->mode;
        sqe.open_flags = request->flags;
        break;
    default:
        sqe.statx_flags = request->flags;
        sqe.off = (uint64_t)(uintptr_t)request->second;
    }
    return submit(ring, &sqe);
}

/* ---- completion ---- */

static int reap(struct fr_uring *ring, struct fr_poller_event *out, int max)
{
    int n = 0;
    uint32_t head = atomic_load_explicit(ring->cq_head, memory_order_relaxed); /* only the owner writes it */
    /* acquire: pairs with the kernel's release of the tail */
    uint32_t tail = atomic_load_explicit(ring->cq_tail, memory_order_acquire);
    for (; head != tail && n < max; head++) {
        const struct io_uring_cqe *cqe = &ring->cqes[head & ring->cq_mask];
        if (cqe->user_data == 0) { /* the answer to a removal */
            continue;
        }
        if (fr_poller_is_file(cqe->user_data)) {
            out[n++] = (struct fr_poller_event){.token = cqe->user_data, .result = cqe->res};
            continue;
        }
        bool refused = cqe->res < 0 && cqe->res != -ECANCELED; /* it would be again; the next system call tells why */
        out[n++] = (struct fr_poller_event){
            .token = cqe->user_data,
            .events = cqe->res >= 0 ? (uint32_t)cqe->res
                      : refused     ? EPOLLERR
                                    : 0,
            .ended = !refused && !(cqe->flags & IORING_CQE_F_MORE),
        };
    }
    /* release: the kernel may write there again; pairs with its acquire of the head */
    atomic_store_explicit(ring->cq_head, head, memory_order_release);
    return n;
}

static bool overflowed(struct fr_uring *ring)
{
    /* acquire: pairs with the kernel setting it after it ran out of room */
    return atomic_load_explicit(ring->sq_flags, memory_order_acquire) & IORING_SQ_CQ_OVERFLOW;
}

static int sleep_in_kernel(struct fr_uring *ring, int64_t timeout_ns)
{
    struct __kernel_timespec limit = {.tv_sec = timeout_ns / 1000000000, .tv_nsec = timeout_ns % 1000000000};
    struct io_uring_getevents_arg arg = {.sigmask_sz = _NSIG / 8,
                                         .ts = timeout_ns < 0 ? 0 : (uint64_t)(uintptr_t)&limit};
    int err = enter(ring, 0, 1, IORING_ENTER_GETEVENTS | IORING_ENTER_EXT_ARG, &arg, sizeof arg);
    return err == -ETIME || err == -EBUSY || err == -EAGAIN ? 0 : err < 0 ? err : 0;
}

int fr_uring_wait(struct fr_uring *ring, struct fr_poller_event *out, int max, int64_t timeout_ns)
{
    if (overflowed(ring)) {
        enter(ring, 0, 0, IORING_ENTER_GETEVENTS, NULL, 0); /* moves them into the room there is now */
    }
    int n = reap(ring, out, max);
    if (n || timeout_ns == 0) { /* no system call to look */
        return n;
    }
    int err = sleep_in_kernel(ring, timeout_ns);
    n = reap(ring, out, max);
    return n ? n : err;
}

#else

int fr_uring_new(struct fr_uring **out)
{
    *out = 0;
    return -ENOSYS;
}

void fr_uring_free(struct fr_uring *ring)
{
    (void)ring;
}

int fr_uring_poll_add(struct fr_uring *ring, int fd, uint32_t events, uint64_t token)
{
    (void)ring, (void)fd, (void)events, (void)token;
    return -ENOSYS;
}

void fr_uring_poll_remove(struct fr_uring *ring, uint64_t token)
{
    (void)ring, (void)token;
}

int fr_uring_file(struct fr_uring *ring, const struct fr_file_request *request, uint64_t token)
{
    (void)ring, (void)request, (void)token;
    return -ENOSYS;
}

int fr_uring_wait(struct fr_uring *ring, struct fr_poller_event *out, int max, int64_t timeout_ns)
{
    (void)ring, (void)out, (void)max, (void)timeout_ns;
    return -ENOSYS;
}

#endif
