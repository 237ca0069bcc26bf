/* echo_epoll: the floor of the echo benchmark, a C server with one thread and nothing else.
 *
 *     echo_epoll
 *
 * Listens on a free port of 127.0.0.1, prints {"port": N}, echoes until standard input closes.
 * Reads before it asks epoll again only when told to, as the Python servers do: one epoll_wait, one
 * recv and one send for a message. What a peer does not take is kept, and nothing more is read from
 * it until it has been taken, so the memory for a connection is bounded by BUFFER.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

enum { BUFFER = 65536, BATCH = 256 };

struct client {
    int fd;
    size_t start; /* data[start..end) is still to be sent back */
    size_t end;
    char data[BUFFER];
};

static int epoll_fd;

static void die(const char *what)
{
    fprintf(stderr, "echo_epoll: %s: %s\n", what, strerror(errno));
    exit(1);
}

static void watch(int operation, int fd, unsigned events, void *pointer)
{
    struct epoll_event event = {.events = events, .data.ptr = pointer};
    if (epoll_ctl(epoll_fd, operation, fd, &event) < 0) {
        die("epoll_ctl");
    }
}

static void hang_up(struct client *client)
{
    close(client->fd); /* also takes it out of the epoll set */
    free(client);
}

/* Sends what there is; 0 when all is gone, 1 when the peer is slow, -1 when it is gone. */
static int flush(struct client *client)
{
    while (client->start < client->end) {
        ssize_t n = send(client->fd, client->data + client->start, client->end - client->start, MSG_NOSIGNAL);
        if (n >= 0) {
            client->start += (size_t)n;
        } else if (errno == EAGAIN) {
            return 1;
        } else if (errno != EINTR) {
            return -1;
        }
    }
    return 0;
}

static void serve(struct client *client, unsigned events)
{
    int was_slow = client->start < client->end;
    if (!was_slow && (events & ~(unsigned)EPOLLOUT)) {
        ssize_t n = recv(client->fd, client->data, BUFFER, 0);
        if (n < 0 && (errno == EAGAIN || errno == EINTR)) {
            return;
        }
        if (n <= 0) {
            hang_up(client);
            return;
        }
        client->start = 0;
        client->end = (size_t)n;
    }
    int slow = flush(client);
    if (slow < 0) {
        hang_up(client);
    } else if (slow != was_slow) {
        watch(EPOLL_CTL_MOD, client->fd, slow ? EPOLLOUT : EPOLLIN, client);
    }
}

static void accept_one(int listener)
{
    int fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (fd < 0) {
        return; /* that one is gone already */
    }
    int on = 1;
    (void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    struct client *client = malloc(sizeof *client);
    if (!client) {
        die("malloc");
    }
    client->fd = fd;
    client->start = client->end = 0;
    watch(EPOLL_CTL_ADD, fd, EPOLLIN, client);
}

int main(void)
{
    struct sockaddr_in address = {.sin_family = AF_INET};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t length = sizeof address;
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    if (listener < 0 || epoll_fd < 0 || bind(listener, (struct sockaddr *)&address, length) < 0 ||
        listen(listener, 1024) < 0 || getsockname(listener, (struct sockaddr *)&address, &length) < 0) {
        die("listen");
    }
    printf("{\"port\": %d}\n", ntohs(address.sin_port));
    fflush(stdout);

    static char for_listener, for_stdin; /* their addresses tell these two from clients */
    watch(EPOLL_CTL_ADD, listener, EPOLLIN, &for_listener);
    watch(EPOLL_CTL_ADD, STDIN_FILENO, EPOLLIN, &for_stdin);
    for (;;) {
        struct epoll_event events[BATCH];
        int n = epoll_wait(epoll_fd, events, BATCH, -1);
        if (n < 0 && errno != EINTR) {
            die("epoll_wait");
        }
        for (int i = 0; i < n; i++) {
            if (events[i].data.ptr == &for_stdin) {
                return 0;
            }
            if (events[i].data.ptr == &for_listener) {
                accept_one(listener);
            } else {
                serve(events[i].data.ptr, events[i].events);
            }
        }
    }
}
