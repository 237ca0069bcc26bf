/* The listeners of signals: each hears each signal once however often it came; the old handler comes back; closing while
 * signals pour in never writes to a descriptor of somebody else's. */
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/wait.h>
#include <unistd.h>

#include "../rt/signals.h"
#include "check.h"

static _Atomic int theirs;

static void their_handler(int number)
{
    (void)number;
    atomic_fetch_add(&theirs, 1);
}

static struct fr_listener listen_to(int number)
{
    struct fr_listener listener;
    CHECK_EQ(fr_signal_listen(number, &listener), 0);
    return listener;
}

static void install_theirs(int number)
{
    struct sigaction action = {.sa_handler = their_handler};
    CHECK_EQ(sigaction(number, &action, NULL), 0);
}

static bool is_theirs(int number)
{
    struct sigaction action;
    CHECK_EQ(sigaction(number, NULL, &action), 0);
    return action.sa_handler == their_handler;
}

static void test_each_hears_each(void)
{
    install_theirs(SIGUSR1);
    struct fr_listener a = listen_to(SIGUSR1), b = listen_to(SIGUSR1), other = listen_to(SIGUSR2);
    CHECK(!fr_signal_take(a));
    for (int i = 0; i < 3; i++) {
        raise(SIGUSR1);
    }
    CHECK(fr_signal_take(a) && !fr_signal_take(a));
    CHECK(fr_signal_take(b) && !fr_signal_take(b));
    CHECK(!fr_signal_take(other));
    CHECK(fr_signal_unlisten(a) && !fr_signal_unlisten(a));
    raise(SIGUSR1);
    CHECK(!fr_signal_take(a));
    CHECK_EQ(fr_signal_dup_fd(a), -EBADF);
    CHECK(fr_signal_take(b));
    struct fr_listener again = listen_to(SIGUSR1); /* in a's slot */
    CHECK(again.slot == a.slot && !fr_signal_take(again));
    CHECK(!fr_signal_unlisten(a));
    raise(SIGUSR1);
    CHECK(fr_signal_take(again) && fr_signal_take(b));
    CHECK(fr_signal_unlisten(again) && fr_signal_unlisten(b) && fr_signal_unlisten(other));
    CHECK(is_theirs(SIGUSR1));
    CHECK_EQ(atomic_load(&theirs), 0);
    raise(SIGUSR1);
    CHECK_EQ(atomic_load(&theirs), 1);
}

static void test_somebody_elses_handler(void)
{
    signal(SIGUSR1, SIG_DFL);
    struct fr_listener a = listen_to(SIGUSR1);
    install_theirs(SIGUSR1);
    CHECK(fr_signal_unlisten(a)); /* theirs is later than what we found */
    CHECK(is_theirs(SIGUSR1));

    signal(SIGUSR1, SIG_DFL);
    a = listen_to(SIGUSR1);
    install_theirs(SIGUSR1);
    fr_signals_rearm(SIGUSR1);
    raise(SIGUSR1);
    CHECK(fr_signal_take(a));
    CHECK(fr_signal_unlisten(a));
    CHECK(is_theirs(SIGUSR1)); /* what rearm found, not what listen had found */

    a = listen_to(SIGUSR1);
    fr_signals_restore();
    CHECK(is_theirs(SIGUSR1));
    CHECK(fr_signal_unlisten(a));
    CHECK(is_theirs(SIGUSR1));
    fr_signals_rearm(SIGUSR1); /* nobody listens */
    CHECK(is_theirs(SIGUSR1));
}

static void test_refused(void)
{
    struct fr_listener a;
    int numbers[] = {-1, 0, SIGKILL, SIGSTOP, 32, NSIG, 1000000};
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++) {
        CHECK_EQ(fr_signal_listen(numbers[i], &a), -EINVAL);
    }
    CHECK(!fr_signal_notify(SIGHUP) && !fr_signal_notify(-1) && !fr_signal_notify(1000000));
    a = listen_to(SIGHUP);
    CHECK(fr_signal_notify(SIGHUP) && fr_signal_take(a));
    CHECK(fr_signal_unlisten(a));
}

static void test_fork(void)
{
    install_theirs(SIGUSR1);
    struct fr_listener a = listen_to(SIGUSR1);
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        raise(SIGUSR1); /* not the parent's to hear */
        fr_signals_after_fork();
        bool good = is_theirs(SIGUSR1) && !fr_signal_take(a) && !fr_signal_unlisten(a);
        struct fr_listener b = listen_to(SIGUSR1);
        raise(SIGUSR1);
        good = good && fr_signal_take(b) && !fr_signal_unlisten(a) && fr_signal_unlisten(b) && is_theirs(SIGUSR1);
        _exit(good ? 0 : 1);
    }
    int status;
    CHECK_EQ(waitpid(child, &status, 0), child);
    CHECK_EQ(status, 0);
    CHECK(!fr_signal_take(a));
    raise(SIGUSR1);
    CHECK(fr_signal_take(a));
    CHECK(fr_signal_unlisten(a));
}

static atomic_bool stop;

static void *shoot(void *arg)
{
    (void)arg;
    while (!atomic_load(&stop)) {
        raise(SIGUSR2); /* the handler runs on this thread */
    }
    return NULL;
}

/* Descriptors of its own, at numbers that listeners have just given up, must stay empty. */
static void test_storm(struct check_env *env)
{
    pthread_t threads[3];
    struct fr_listener keeper = listen_to(SIGUSR2);
    uint64_t end = fr_clock_ns() + env->stress_ns, value;
    for (int i = 0; i < 3; i++) {
        CHECK_EQ(pthread_create(&threads[i], NULL, shoot, NULL), 0);
    }
    for (int round = 0; fr_clock_ns() < end; round++) {
        struct fr_listener a = listen_to(SIGUSR2);
        while (round % 8 == 0 && !fr_signal_take(a)) {
        }
        CHECK(fr_signal_unlisten(a));
        int mine = eventfd(0, EFD_NONBLOCK);
        CHECK(mine >= 0);
        sched_yield();
        CHECK(read(mine, &value, sizeof value) < 0 && errno == EAGAIN);
        close(mine);
    }
    atomic_store(&stop, true);
    for (int i = 0; i < 3; i++) {
        pthread_join(threads[i], NULL);
    }
    CHECK(fr_signal_take(keeper));
    CHECK(fr_signal_unlisten(keeper));
}

int main(int argc, char **argv)
{
    struct check_env env = check_begin(argc, argv);
    test_each_hears_each();
    test_somebody_elses_handler();
    test_refused();
    test_fork();
    test_storm(&env);
    return check_end();
}
