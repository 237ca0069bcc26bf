/* loadgen: a closed-loop TCP echo client with one thread, for loopback only.
 *
 *     loadgen PORT CONNECTIONS SIZE SECONDS [IDLE [SERVER]]
 *
 * IDLE more connections are opened, exchange one message each, and stay silent from then on.
 * Keeps exactly one message of SIZE bytes in flight on each of CONNECTIONS, checks every echoed byte,
 * and prints one line of JSON: requests, seconds, rps, p50_us, p99_us, max_us, cpu (the client's
 * own CPU time as a share of one core), server_cpu (the same of the process SERVER; 0 without one).
 *
 * COST    a request is one send and one recv, and its share of an epoll_wait that brings up to BATCH of them. Edges, so
 *         that the kernel does not look at a socket again that was read: what comes is never more than what is asked for,
 *         and what comes later is another edge.
 *
 * BOUNDS  it ends SECONDS after WARM_UP and the greetings, after MAX_REQUESTS, or when nothing has been answered
 *         for STALL_MS; a wrong byte or a closed connection is an error (status 1).
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <limits.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum {
    MAX_CONNECTIONS = 10000,
    MAX_SIZE = 1 << 20,
    MAX_SECONDS = 60,
    MAX_REQUESTS = 8000000,
    STALL_MS = 5000,
    BATCH = 256,
};

static const double WARM_UP = 0.3; /* seconds */

struct connection {
    int fd;
    size_t sent;       /* bytes of the message that the socket has taken */
    size_t received;   /* bytes of the echo that have come back */
    uint64_t number;   /* stands in the first bytes of the message, so that no two are alike */
    uint64_t began_ns; /* when the message in flight was sent */
    int wants_write;   /* EPOLLOUT is on */
};

static int epoll_fd;
static size_t size;
static unsigned char *message; /* what to send; its first bytes are set before each use */
static unsigned char *inbox;

static void fail(const char *format, ...) __attribute__((format(printf, 1, 2), noreturn));

static void fail(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    fputs("loadgen: ", stderr);
    vfprintf(stderr, format, arguments);
    fputc('\n', stderr);
    va_end(arguments);
    exit(1);
}

static uint64_t now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static double cpu_seconds(void)
{
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    return (double)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) +
           (double)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1e6;
}

/* CPU time of the server's process, all of its threads. */
static double server_seconds(clockid_t clock)
{
    struct timespec used;
    if (clock == 0) {
        return 0;
    }
    if (clock_gettime(clock, &used) < 0) {
        fail("the server's CPU time: %s", strerror(errno));
    }
    return (double)used.tv_sec + (double)used.tv_nsec / 1e9;
}

static long argument(const char *text, const char *name, long least, long most)
{
    char *end;
    long value = strtol(text, &end, 10);
    if (*text == '\0' || *end != '\0' || value < least || value > most) {
        fail("%s must be from %ld to %ld, not %s", name, least, most, text);
    }
    return value;
}

static void stamp(const struct connection *connection)
{
    memcpy(message, &connection->number, size < sizeof connection->number ? size : sizeof connection->number);
}

static void watch(struct connection *connection, int wants_write)
{
    struct epoll_event event = {.events = EPOLLIN | EPOLLET | (wants_write ? EPOLLOUT : 0u), .data.ptr = connection};
    if (epoll_ctl(epoll_fd, EPOLL_CTL_MOD, connection->fd, &event) < 0) {
        fail("epoll_ctl: %s", strerror(errno));
    }
    connection->wants_write = wants_write;
}

/* Sends what is left of the message; asks for EPOLLOUT if the socket is full. */
static void send_rest(struct connection *connection)
{
    stamp(connection);
    while (connection->sent < size) {
        ssize_t n = send(connection->fd, message + connection->sent, size - connection->sent, MSG_NOSIGNAL);
        if (n > 0) {
            connection->sent += (size_t)n;
        } else if (n < 0 && errno == EINTR) {
            continue;
        } else if (n < 0 && errno == EAGAIN) {
            break;
        } else {
            fail("send: %s", strerror(errno));
        }
    }
    if (connection->wants_write != (connection->sent < size)) {
        watch(connection, connection->sent < size);
    }
}

static void send_next(struct connection *connection)
{
    connection->number++;
    connection->sent = connection->received = 0;
    connection->began_ns = now_ns();
    send_rest(connection);
}

/* Takes what has come; true when the echo is complete. */
static int receive(struct connection *connection)
{
    ssize_t n = recv(connection->fd, inbox, size - connection->received, 0);
    if (n < 0 && (errno == EAGAIN || errno == EINTR)) {
        return 0;
    }
    if (n <= 0) {
        fail("recv: %s", n == 0 ? "the server closed the connection" : strerror(errno));
    }
    stamp(connection);
    if (memcmp(inbox, message + connection->received, (size_t)n) != 0) {
        fail("the echo differs from the message");
    }
    connection->received += (size_t)n;
    return connection->received == size;
}

static int connect_to(uint16_t port)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(port)};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0 || connect(fd, (struct sockaddr *)&address, sizeof address) < 0) {
        fail("connect: %s", strerror(errno));
    }
    int on = 1;
    if (setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on) < 0) {
        fail("setsockopt: %s", strerror(errno));
    }
    return fd;
}

static int compare(const void *left, const void *right)
{
    uint32_t a = *(const uint32_t *)left;
    uint32_t b = *(const uint32_t *)right;
    return (a > b) - (a < b);
}

int main(int argc, char **argv)
{
    if (argc < 5 || argc > 7) {
        fail("usage: loadgen PORT CONNECTIONS SIZE SECONDS [IDLE [SERVER]]");
    }
    uint16_t port = (uint16_t)argument(argv[1], "PORT", 1, 65535);
    long active = argument(argv[2], "CONNECTIONS", 1, MAX_CONNECTIONS);
    long idle = argc > 5 ? argument(argv[5], "IDLE", 0, MAX_CONNECTIONS - active) : 0;
    long connections = active + idle;
    size = (size_t)argument(argv[3], "SIZE", 1, MAX_SIZE);
    clockid_t server = 0;
    if (argc > 6 && clock_getcpuclockid((pid_t)argument(argv[6], "SERVER", 1, INT_MAX), &server) != 0) {
        fail("there is no process %s", argv[6]);
    }
    char *end;
    double seconds = strtod(argv[4], &end);
    if (*end != '\0' || !(seconds > 0) || seconds > MAX_SECONDS) {
        fail("SECONDS must be above 0 and at most %d, not %s", MAX_SECONDS, argv[4]);
    }

    epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    message = malloc(size);
    inbox = malloc(size);
    uint32_t *latencies = malloc(sizeof *latencies * MAX_REQUESTS); /* ns; touched as it fills */
    struct connection *all = calloc((size_t)connections, sizeof *all);
    if (epoll_fd < 0 || !message || !inbox || !latencies || !all) {
        fail("no memory");
    }
    for (size_t i = 0; i < size; i++) {
        message[i] = (unsigned char)('a' + i % 26);
    }
    for (long i = 0; i < connections; i++) {
        all[i].fd = connect_to(port);
        all[i].number = (uint64_t)i << 40;
        struct epoll_event event = {.events = EPOLLIN | EPOLLET, .data.ptr = &all[i]};
        if (epoll_ctl(epoll_fd, EPOLL_CTL_ADD, all[i].fd, &event) < 0) {
            fail("epoll_ctl: %s", strerror(errno));
        }
    }
    for (long i = 0; i < connections; i++) {
        send_next(&all[i]);
    }

    uint64_t begin = now_ns() + (uint64_t)(WARM_UP * 1e9);
    uint64_t stop = begin + (uint64_t)(seconds * 1e9);
    double cpu = 0;
    double server_cpu = 0;
    size_t requests = 0;
    long greeted = 0; /* idle connections that have had their one answer: the clock starts after them */
    int warm = 0;
    for (;;) {
        struct epoll_event events[BATCH];
        int n = epoll_wait(epoll_fd, events, BATCH, STALL_MS);
        if (n == 0) {
            fail("no answer for %d ms", STALL_MS);
        }
        if (n < 0 && errno != EINTR) {
            fail("epoll_wait: %s", strerror(errno));
        }
        uint64_t now = now_ns();
        if (!warm && now >= begin && greeted == idle) {
            stop = now + (uint64_t)(seconds * 1e9);
            warm = 1;
            begin = now;
            cpu = cpu_seconds();
            server_cpu = server_seconds(server);
        }
        if (warm && (now >= stop || requests == MAX_REQUESTS)) {
            stop = now;
            break;
        }
        for (int i = 0; i < n; i++) {
            struct connection *connection = events[i].data.ptr;
            if (events[i].events & EPOLLOUT) {
                send_rest(connection);
            }
            if (!(events[i].events & ~(uint32_t)EPOLLOUT) || !receive(connection)) {
                continue;
            }
            if (warm && requests < MAX_REQUESTS && connection < all + active) {
                uint64_t took = now_ns() - connection->began_ns;
                latencies[requests++] = took > UINT32_MAX ? UINT32_MAX : (uint32_t)took;
            }
            if (connection < all + active) {
                send_next(connection);
            } else {
                greeted++;
            }
        }
    }
    cpu = cpu_seconds() - cpu;
    server_cpu = server_seconds(server) - server_cpu;
    if (requests == 0) {
        fail("no request was answered in time");
    }
    double took = (double)(stop - begin) / 1e9;
    qsort(latencies, requests, sizeof *latencies, compare);
    printf("{\"requests\": %zu, \"seconds\": %.6f, \"rps\": %.1f, \"p50_us\": %.1f, \"p99_us\": %.1f, "
           "\"max_us\": %.1f, \"cpu\": %.3f, \"server_cpu\": %.3f}\n",
           requests, took, (double)requests / took, latencies[requests / 2] / 1e3, latencies[requests * 99 / 100] / 1e3,
           latencies[requests - 1] / 1e3, cpu / took, server_cpu / took);
    return 0;
}
