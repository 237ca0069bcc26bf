/* poller: says which descriptors became ready, each edge once. Two kinds: epoll, and io_uring's multishot poll requests.
 *
 * THREADS    add, remove: any. wait: the owner of the driver. init, destroy: when nobody else is there.
 * STATE      wait with a timeout sleeps: detached. The others never block for long.
 * OWNERSHIP  registered descriptors stay the caller's. `token` is handed back with each event; 0 is not a token.
 * INVARIANTS P1 after fr_poller_remove() the kernel holds nothing of the descriptor for us, but events of it may be on
 *               their way still: the caller tells by the token.
 *            P2 an event with `ended` is the registration's last one. io_uring ends one when the thread that made it
 *               exits, or when completions overflow; the caller registers again, which reports what is ready by then.
 *            P3 what a request of a file points to stays valid and untouched until its event, which comes exactly once,
 *               with the same token. Such tokens have FR_POLLER_FILE set, others do not.
 * PROVED BY  tests/test_poller.c, tests/test_driver.c (both kinds)
 */
#ifndef FR_POLLER_H
#define FR_POLLER_H

#include <stdbool.h>
#include <stdint.h>

enum fr_poller_kind { FR_POLLER_EPOLL, FR_POLLER_IO_URING };

struct fr_poller_event {
    uint64_t token;
    uint32_t events; /* EPOLL* */
    int32_t result;  /* of a file's request [P3] */
    bool ended;      /* [P2] */
};

#define FR_POLLER_FILE        (UINT64_C(1) << 63) /* in a token */
#define FR_POLLER_EPOLL_TOKEN UINT64_MAX

static inline bool fr_poller_is_file(uint64_t token)
{
    return (token & FR_POLLER_FILE) && token != FR_POLLER_EPOLL_TOKEN;
}

enum fr_file_kind { FR_FILE_READ, FR_FILE_WRITE, FR_FILE_SYNC, FR_FILE_OPEN, FR_FILE_STAT };

/* What io_uring is asked to do with a file. READ and WRITE: at `offset`, which does not move the file's position; -1 for
 * what has none. (-1 for a file that has one would be its position, but Linux 6.18 does not move that after a write that
 * was short.) SYNC: `flags` 1 for the data only. OPEN:
 * `address` is the path, `flags` and `mode` are open(2)'s. STAT: `address` is the path, `second` the struct statx. */
struct fr_file_request {
    const void *address;
    void *second;
    int64_t offset;
    uint32_t length, flags, mode;
    int fd;
    uint8_t kind;
    bool async; /* never on the calling thread: it would take long */
    bool again; /* the rest of one that was done in part */
};

struct fr_uring;

/* With io_uring, listening sockets are in an epoll instance that the ring polls: a poll request is let go by the thread
 * that made it, a moment after it is cancelled, and for that long a listener that is closed would still listen. */
struct fr_poller {
    int epfd;
    struct fr_uring *ring; /* NULL with epoll */
    bool epoll_has_more;   /* the owner's: not everything fitted into the last wait */
};

/* 0 or -errno: what the kernel said to this kind. */
int fr_poller_init(struct fr_poller *poller, enum fr_poller_kind kind);
void fr_poller_destroy(struct fr_poller *poller);
/* `events` are EPOLL* bits; edges are reported, EPOLLET or not, except by epoll without EPOLLET, which repeats itself. */
int fr_poller_add(struct fr_poller *poller, int fd, uint32_t events, uint64_t token);
void fr_poller_remove(struct fr_poller *poller, int fd, uint64_t token);
/* io_uring only [P3]: 0 or -errno, and then there is no event. One system call; may do the request at once. */
int fr_poller_file(struct fr_poller *poller, const struct fr_file_request *request, uint64_t token);
/* The request ends soon, done or with -ECANCELED or -EINTR. */
void fr_poller_file_cancel(struct fr_poller *poller, uint64_t token);
/* Up to `max` events. timeout_ns 0: does not sleep; < 0: until there is one. How many, or -errno (-EINTR included). */
int fr_poller_wait(struct fr_poller *poller, struct fr_poller_event *out, int max, int64_t timeout_ns);

#endif
