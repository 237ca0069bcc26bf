/* The poller, both kinds: what becomes ready is said, once for each edge; what was removed holds nothing; a registration
 * outlives the thread that made it; a file's request has one answer. */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "../rt/poller.h"
#include "check.h"
#include "kinds.h"

enum { ALL = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET, SECOND = 1000000000 };

static void make_pair(int fds[2])
{
    CHECK_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fds), 0);
}

/* The bits of one registration until `wanted` are among them. Renews what io_uring has ended, as the driver does. */
static uint32_t wait_for(struct fr_poller *poller, int fd, uint64_t token, uint32_t wanted)
{
    uint32_t seen = 0;
    while ((seen & wanted) != wanted) {
        struct fr_poller_event events[4];
        int n = fr_poller_wait(poller, events, 4, INT64_C(20) * SECOND);
        CHECK(n >= 0);
        for (int i = 0; i < n; i++) {
            CHECK_EQ(events[i].token, token);
            seen |= events[i].events;
            if (events[i].ended) {
                CHECK_EQ(fr_poller_add(poller, fd, ALL, token), 0);
            }
        }
    }
    return seen;
}

static void check_silent(struct fr_poller *poller)
{
    struct fr_poller_event events[4];
    int n = fr_poller_wait(poller, events, 4, SECOND / 200);
    for (int i = 0; i < n; i++) {
        CHECK_EQ(events[i].events, 0);
    }
    CHECK(n >= 0);
}

static void test_edges(void)
{
    struct fr_poller poller;
    int fds[2];
    char byte = 'x';
    CHECK_EQ(fr_poller_init(&poller, kind), 0);
    make_pair(fds);
    CHECK_EQ(fr_poller_add(&poller, fds[0], ALL, 77), 0);
    uint32_t seen = wait_for(&poller, fds[0], 77, EPOLLOUT);
    CHECK(!(seen & EPOLLIN));
    check_silent(&poller); /* still writable, and said already */
    for (int i = 0; i < 5; i++) {
        CHECK_EQ(write(fds[1], &byte, 1), 1);
        wait_for(&poller, fds[0], 77, EPOLLIN);
        check_silent(&poller);
    }
    close(fds[1]);
    wait_for(&poller, fds[0], 77, EPOLLRDHUP);
    fr_poller_remove(&poller, fds[0], 77);
    close(fds[0]);
    fr_poller_destroy(&poller);
}

/* The peer must see the end although the poller goes on. */
static void test_removed_is_let_go(void)
{
    struct fr_poller poller;
    int fds[2];
    char byte;
    CHECK_EQ(fr_poller_init(&poller, kind), 0);
    for (int i = 0; i < 200; i++) {
        make_pair(fds);
        CHECK_EQ(fr_poller_add(&poller, fds[0], ALL, 8 + (uint64_t)i), 0);
        if (i % 2) {
            CHECK_EQ(write(fds[1], "x", 1), 1);
        }
        fr_poller_remove(&poller, fds[0], 8 + (uint64_t)i);
        close(fds[0]);
        struct fr_poller_event events[8];
        fcntl(fds[1], F_SETFL, 0); /* wait for the end in read() */
        ssize_t n = read(fds[1], &byte, 1);
        CHECK(n == 0 || (n < 0 && errno == ECONNRESET)); /* it had bytes that nobody read */
        close(fds[1]);
        CHECK(fr_poller_wait(&poller, events, 8, 0) >= 0); /* what is left of it */
    }
    check_silent(&poller);
    fr_poller_destroy(&poller);
}

struct registration {
    struct fr_poller *poller;
    int fd;
    _Atomic bool done;
};

/* After close() nobody is let in any more, not even for a moment, whichever thread registered the listener. */
static void *add_listener(void *arg)
{
    struct registration *r = arg;
    CHECK_EQ(fr_poller_add(r->poller, r->fd, EPOLLIN | EPOLLET, 99), 0);
    while (!atomic_load(&r->done)) {
        usleep(100);
    }
    return NULL;
}

static void test_a_closed_listener_refuses(void)
{
    struct fr_poller poller;
    struct sockaddr_un address = {.sun_family = AF_UNIX, .sun_path = "\0freerun-test-"};
    snprintf(address.sun_path + 1, sizeof address.sun_path - 1, "freerun-test-%d", (int)getpid());
    CHECK_EQ(fr_poller_init(&poller, kind), 0);
    for (int i = 0; i < 100; i++) {
        struct registration r = {.poller = &poller, .fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0)};
        pthread_t thread;
        CHECK_EQ(bind(r.fd, (struct sockaddr *)&address, sizeof address), 0);
        CHECK_EQ(listen(r.fd, 8), 0);
        CHECK_EQ(pthread_create(&thread, NULL, add_listener, &r), 0);
        int client = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
        CHECK_EQ(connect(client, (struct sockaddr *)&address, sizeof address), 0);
        struct fr_poller_event event[2];
        while (fr_poller_wait(&poller, event, 2, SECOND) == 0) {
        }
        CHECK_EQ(event[0].token, 99);
        fr_poller_remove(&poller, r.fd, 99);
        close(r.fd);
        close(client);
        client = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
        CHECK(connect(client, (struct sockaddr *)&address, sizeof address) < 0);
        close(client);
        atomic_store(&r.done, true);
        CHECK_EQ(pthread_join(thread, NULL), 0);
    }
    fr_poller_destroy(&poller);
}

static void *add_and_exit(void *arg)
{
    struct registration *r = arg;
    CHECK_EQ(fr_poller_add(r->poller, r->fd, ALL, 99), 0);
    return NULL;
}

static void test_the_thread_that_registered_exits(void)
{
    struct fr_poller poller;
    int fds[2];
    CHECK_EQ(fr_poller_init(&poller, kind), 0);
    make_pair(fds);
    struct registration r = {.poller = &poller, .fd = fds[0]};
    pthread_t thread;
    CHECK_EQ(pthread_create(&thread, NULL, add_and_exit, &r), 0);
    CHECK_EQ(pthread_join(thread, NULL), 0);
    wait_for(&poller, fds[0], 99, EPOLLOUT);
    CHECK_EQ(write(fds[1], "x", 1), 1);
    wait_for(&poller, fds[0], 99, EPOLLIN);
    fr_poller_remove(&poller, fds[0], 99);
    close(fds[0]);
    close(fds[1]);
    fr_poller_destroy(&poller);
}

static void test_regular_files_are_refused(void)
{
    struct fr_poller poller;
    CHECK_EQ(fr_poller_init(&poller, kind), 0);
    int fd = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
    CHECK(fd >= 0);
    CHECK_EQ(fr_poller_add(&poller, fd, ALL, 5), -EPERM);
    close(fd);
    fr_poller_destroy(&poller);
}

/* Registrations come and go on several threads while one waits; each byte written is heard of. */
struct churn {
    struct fr_poller *poller;
    uint64_t token;
    _Atomic uint64_t heard;
    _Atomic bool stop;
};

static void *come_and_go(void *arg)
{
    struct churn *c = arg;
    uint64_t token = c->token, rounds = 0;
    while (!atomic_load(&c->stop)) {
        int fds[2];
        make_pair(fds);
        CHECK_EQ(fr_poller_add(c->poller, fds[0], EPOLLIN | EPOLLET, token), 0);
        CHECK_EQ(write(fds[1], "x", 1), 1);
        while (atomic_load(&c->heard) <= rounds) {
            usleep(10);
        }
        fr_poller_remove(c->poller, fds[0], token);
        close(fds[0]);
        close(fds[1]);
        token += 16;
        rounds++;
    }
    return NULL;
}

static void test_churn(struct check_env *env)
{
    enum { THREADS = 3 };
    struct fr_poller poller;
    struct churn churn[THREADS];
    uint64_t last[THREADS] = {0};
    pthread_t threads[THREADS];
    CHECK_EQ(fr_poller_init(&poller, kind), 0);
    for (int i = 0; i < THREADS; i++) {
        churn[i] = (struct churn){.poller = &poller, .token = 16 + (uint64_t)i};
        CHECK_EQ(pthread_create(&threads[i], NULL, come_and_go, &churn[i]), 0);
    }
    uint64_t end = fr_clock_ns() + env->stress_ns;
    while (fr_clock_ns() < end) {
        struct fr_poller_event events[8];
        int n = fr_poller_wait(&poller, events, 8, SECOND / 100);
        CHECK(n >= 0);
        for (int k = 0; k < n; k++) {
            int i = (int)(events[k].token % 16);
            if ((events[k].events & EPOLLIN) && events[k].token > last[i]) {
                last[i] = events[k].token;
                atomic_fetch_add(&churn[i].heard, 1);
            }
        }
    }
    for (int i = 0; i < THREADS; i++) {
        atomic_store(&churn[i].stop, true);
        atomic_fetch_add(&churn[i].heard, 1);
    }
    for (int i = 0; i < THREADS; i++) {
        CHECK_EQ(pthread_join(threads[i], NULL), 0);
    }
    fr_poller_destroy(&poller);
}

/* ---- requests of files ---- */

static int32_t result_of(struct fr_poller *poller, uint64_t token)
{
    for (;;) {
        struct fr_poller_event events[4];
        int n = fr_poller_wait(poller, events, 4, INT64_C(20) * SECOND);
        CHECK(n == 0 || n == 1);
        if (n) {
            CHECK_EQ(events[0].token, token);
            CHECK(fr_poller_is_file(token) && !events[0].ended);
            return events[0].result;
        }
    }
}

static int32_t request(struct fr_poller *poller, struct fr_file_request what, uint64_t number)
{
    CHECK_EQ(fr_poller_file(poller, &what, number | FR_POLLER_FILE), 0);
    return result_of(poller, number | FR_POLLER_FILE);
}

static void test_files(void)
{
    struct fr_poller poller;
    char path[] = "/tmp/freerun-poller-XXXXXX", text[] = "0123456789", back[sizeof text] = "";
    CHECK_EQ(fr_poller_init(&poller, kind), 0);
    struct fr_file_request sync = {.kind = FR_FILE_SYNC, .fd = 0};
    if (kind == FR_POLLER_EPOLL) {
        CHECK_EQ(fr_poller_file(&poller, &sync, FR_POLLER_FILE | 8), -ENOSYS);
        fr_poller_destroy(&poller);
        return;
    }
    close(mkstemp(path));
    int fd = request(
        &poller,
        (struct fr_file_request){.kind = FR_FILE_OPEN, .fd = AT_FDCWD, .address = path, .flags = O_RDWR | O_CLOEXEC},
        8);
    CHECK(fd >= 0);
    struct fr_file_request put = {.kind = FR_FILE_WRITE, .fd = fd, .address = text, .length = 10, .offset = 5};
    CHECK_EQ(request(&poller, put, 16), 10);
    struct fr_file_request get = {.kind = FR_FILE_READ, .fd = fd, .address = back, .length = 10, .offset = 7};
    CHECK_EQ(request(&poller, get, 24), 8);
    CHECK_EQ(memcmp(back, "23456789", 8), 0);
    CHECK_EQ(lseek(fd, 0, SEEK_CUR), 0); /* the position is the caller's to move */
    sync.fd = fd;
    CHECK_EQ(request(&poller, sync, 32), 0);
    struct statx about;
    CHECK_EQ(
        request(
            &poller,
            (struct fr_file_request){
                .kind = FR_FILE_STAT, .fd = AT_FDCWD, .address = path, .second = &about, .length = STATX_BASIC_STATS},
            40),
        0);
    CHECK_EQ(about.stx_size, 15);
    close(fd);
    CHECK_EQ(request(&poller, get, 48), -EBADF);
    unlink(path);
    fr_poller_destroy(&poller);
}

static void test_a_request_is_cancelled(void)
{
    struct fr_poller poller;
    int fds[2];
    char byte;
    if (kind == FR_POLLER_EPOLL) {
        return;
    }
    CHECK_EQ(fr_poller_init(&poller, kind), 0);
    CHECK_EQ(pipe2(fds, O_CLOEXEC), 0);
    struct fr_file_request get = {.kind = FR_FILE_READ, .fd = fds[0], .address = &byte, .length = 1, .offset = -1};
    CHECK_EQ(fr_poller_file(&poller, &get, FR_POLLER_FILE | 8), 0);
    check_silent(&poller);
    fr_poller_file_cancel(&poller, FR_POLLER_FILE | 8);
    int32_t result = result_of(&poller, FR_POLLER_FILE | 8);
    CHECK(result == -ECANCELED || result == -EINTR);
    check_silent(&poller); /* one answer */
    close(fds[0]);
    close(fds[1]);
    fr_poller_destroy(&poller);
}

static void test_all(struct check_env *env)
{
    test_files();
    test_a_request_is_cancelled();
    test_edges();
    test_removed_is_let_go();
    test_the_thread_that_registered_exits();
    test_regular_files_are_refused();
    test_a_closed_listener_refuses();
    test_churn(env);
}

int main(int argc, char **argv)
{
    struct check_env env = check_begin(argc, argv);
    alarm(100); /* a lost wake-up shows as a hang */
    each_kind(&env, test_all);
    return check_end();
}
