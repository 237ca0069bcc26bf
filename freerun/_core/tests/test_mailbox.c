/* mailbox: order, room, the end, whom a push wakes, what a cancelled waiter passes on; and all of it at once from threads. */
#include "../rt/mailbox.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>

#include "check.h"

struct letter {
    struct fr_mail mail;
    int number;
};

static _Atomic int woken[8];

static void note(void *task)
{
    atomic_fetch_add(&woken[(uintptr_t)task], 1);
}

static struct fr_mailbox_waiter waiter(uintptr_t task, uint32_t load)
{
    return (struct fr_mailbox_waiter){.waiter = {.task = (void *)task}, .load = load};
}

static int number_of(struct fr_mail *mail)
{
    return mail ? FR_CONTAINER_OF(mail, struct letter, mail)->number : -1;
}

static void reset(void)
{
    for (size_t i = 0; i < sizeof woken / sizeof *woken; i++) {
        atomic_store(&woken[i], 0);
    }
}

static void test_order_room_and_end(void)
{
    struct fr_mailbox box;
    struct letter letters[3] = {{.number = 1}, {.number = 2}, {.number = 3}};
    int err;
    fr_mailbox_init(&box, 2, note);
    CHECK(fr_mailbox_pop(&box, 0, &err) == NULL && err == -EAGAIN);
    CHECK(fr_mailbox_push(&box, &letters[0].mail) == 0);
    CHECK(fr_mailbox_push(&box, &letters[1].mail) == 0);
    CHECK(fr_mailbox_push(&box, &letters[2].mail) == -EAGAIN);
    CHECK(fr_mailbox_len(&box) == 2);
    CHECK(number_of(fr_mailbox_pop(&box, 0, &err)) == 1);
    fr_mailbox_close(&box);
    CHECK(fr_mailbox_push(&box, &letters[2].mail) == -ESHUTDOWN);
    CHECK(number_of(fr_mailbox_pop(&box, 5, &err)) == 2);
    CHECK(fr_mailbox_pop(&box, 0, &err) == NULL && err == -ESHUTDOWN);
}

static void test_the_least_loaded_is_woken(void)
{
    struct fr_mailbox box;
    struct letter letters[3];
    _Atomic uint64_t in_a_poll = 1, between = 2;
    struct fr_mailbox_waiter a = waiter(1, 3), b = waiter(2, 1), c = waiter(3, 0);
    c.busy = &in_a_poll;
    b.busy = &between;
    reset();
    fr_mailbox_init(&box, UINT64_MAX, note);
    CHECK(fr_mailbox_wait(&box, FR_MAILBOX_TAKERS, &a) == -EAGAIN);
    CHECK(fr_mailbox_wait(&box, FR_MAILBOX_TAKERS, &b) == -EAGAIN);
    CHECK(fr_mailbox_wait(&box, FR_MAILBOX_TAKERS, &c) == -EAGAIN);
    fr_mailbox_push(&box, &letters[0].mail);
    CHECK(atomic_load(&woken[2]) == 1 && !fr_waiter_is_linked(&b.waiter));
    fr_mailbox_push(&box, &letters[1].mail);
    CHECK(atomic_load(&woken[1]) == 1);
    fr_mailbox_push(&box, &letters[2].mail);
    CHECK(atomic_load(&woken[3]) == 1);
    CHECK(fr_mailbox_wait(&box, FR_MAILBOX_TAKERS, &a) == 0); /* there is something to look at */
}

static void test_who_goes_away_passes_it_on(void)
{
    struct fr_mailbox box;
    struct letter letter;
    struct fr_mailbox_waiter a = waiter(1, 0), b = waiter(2, 0);
    reset();
    fr_mailbox_init(&box, UINT64_MAX, note);
    fr_mailbox_wait(&box, FR_MAILBOX_TAKERS, &a);
    fr_mailbox_wait(&box, FR_MAILBOX_TAKERS, &b);
    fr_mailbox_push(&box, &letter.mail);
    CHECK(atomic_load(&woken[1]) == 1 && atomic_load(&woken[2]) == 0);
    CHECK(!fr_mailbox_unwait(&box, FR_MAILBOX_TAKERS, &a));
    CHECK(atomic_load(&woken[2]) == 1);
    fr_mailbox_wait(&box, FR_MAILBOX_GIVERS, &a);
    CHECK(!fr_waiter_is_linked(&a.waiter)); /* there is room */
}

static void test_what_is_reserved(void)
{
    struct fr_mailbox box;
    struct letter letters[2] = {{.number = 1}, {.number = 2}};
    struct fr_mailbox_waiter loaded = waiter(1, 1);
    int err;
    reset();
    fr_mailbox_init(&box, UINT64_MAX, note);
    fr_mailbox_reserve(&box);
    fr_mailbox_push(&box, &letters[0].mail);
    CHECK(fr_mailbox_pop(&box, 1, &err) == NULL && err == -EAGAIN);
    CHECK(fr_mailbox_wait(&box, FR_MAILBOX_TAKERS, &loaded) == -EAGAIN);
    fr_mailbox_unreserve(&box);
    CHECK(atomic_load(&woken[1]) == 1);
    CHECK(number_of(fr_mailbox_pop(&box, 1, &err)) == 1);
    fr_mailbox_reserve(&box);
    fr_mailbox_push(&box, &letters[1].mail);
    CHECK(number_of(fr_mailbox_pop(&box, 0, &err)) == 2); /* the one it was for */
}

/* ---- all at once ---- */

enum { THREADS = 4, LETTERS = 20000, CAPACITY = 3 };

static struct fr_mailbox shared;
static _Atomic int seen[LETTERS];

/* A waiter of a plain thread. */
static void sleep_for(enum fr_mailbox_side side)
{
    struct fr_event event;
    fr_event_init(&event, -1);
    struct fr_mailbox_waiter mine = {.waiter = {.event = &event}};
    if (fr_mailbox_wait(&shared, side, &mine)) {
        while (fr_event_wait(&event, -1)) {
        }
        fr_mutex_lock(&shared.lock); /* who set it is done with it after this */
        fr_mutex_unlock(&shared.lock);
    }
}

static void *give(void *arg)
{
    struct letter *letters = arg;
    for (int i = 0; i < LETTERS / THREADS; i++) {
        while (fr_mailbox_push(&shared, &letters[i].mail)) {
            sleep_for(FR_MAILBOX_GIVERS);
        }
    }
    return NULL;
}

static void *take(void *arg)
{
    (void)arg;
    for (;;) {
        int err;
        struct fr_mail *mail = fr_mailbox_pop(&shared, 0, &err);
        if (mail) {
            atomic_fetch_add(&seen[number_of(mail)], 1);
        } else if (err == -ESHUTDOWN) {
            return NULL;
        } else {
            sleep_for(FR_MAILBOX_TAKERS);
        }
    }
}

static void test_threads(void)
{
    struct letter *letters = calloc(LETTERS, sizeof *letters);
    pthread_t givers[THREADS], takers[THREADS];
    for (int i = 0; i < LETTERS; i++) {
        letters[i].number = i;
    }
    fr_mailbox_init(&shared, CAPACITY, note);
    for (int i = 0; i < THREADS; i++) {
        pthread_create(&givers[i], NULL, give, letters + i * (LETTERS / THREADS));
        pthread_create(&takers[i], NULL, take, NULL);
    }
    for (int i = 0; i < THREADS; i++) {
        pthread_join(givers[i], NULL);
    }
    fr_mailbox_close(&shared);
    for (int i = 0; i < THREADS; i++) {
        pthread_join(takers[i], NULL);
    }
    for (int i = 0; i < LETTERS; i++) {
        CHECK(atomic_load(&seen[i]) == 1);
    }
    free(letters);
}

int main(int argc, char **argv)
{
    check_begin(argc, argv);
    test_order_room_and_end();
    test_the_least_loaded_is_woken();
    test_who_goes_away_passes_it_on();
    test_what_is_reserved();
    test_threads();
    return check_end();
}
