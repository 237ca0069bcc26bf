/* wheel: hierarchical timing wheel, 6 levels of 64 slots. Tokio's runtime/time.
 *
 * A tick is 1 ms by convention; the wheel only counts. Level l holds deadlines whose highest base-64 digit that differs
 * from `elapsed` is digit l; its slot is that digit. When time reaches a slot of a level above 0, its timers move down
 * ("cascade"). Deadlines 2^36 ticks away or more wait at the top level and go round.
 *
 * THREADS     none of its own: every call is made under its shard's lock (timers.h), also the handling of the expired list
 *             as long as fr_wheel_remove() may be called for a timer in it.
 * STATE       attached thread state: not needed; never blocks, never allocates.
 * OWNERSHIP   the wheel holds no reference; who embeds a timer removes it before the memory goes.
 * FIELDS      plain, all under the caller's lock.
 * INVARIANTS  W1  Every timer in the wheel has deadline > elapsed; a timer in a list of expired ones has not.
 *             W2  Never early: a timer expires only when the wheel was advanced to a tick >= deadline. (Round up when
 *                 you convert to ticks.) Never late: advance(now) leaves no timer with deadline <= now.
 *             W3  Levels 0..4: the timer agrees with elapsed in all digits above its level and its own digit is
 *                 greater. So the first level that is not empty has the earliest slot, and its next slot is the
 *                 lowest occupied one above elapsed's digit. At the top level digits may wrap, hence the search
 *                 there starts after elapsed's digit and takes that digit last (Tokio takes it first, and then
 *                 overlooks a nearer slot).
 *             W4  occupied bit <=> slot not empty.
 *             W5  fr_timer.level tells where it is: FR_TIMER_IDLE, or a level, and slot which one of its slots. A timer in a
 *                 list filled by fr_wheel_advance() still says where it was: its deadline tells the two apart [W1]. So a
 *                 slot of level 0 expires in one piece, whatever its length, and no timer in it is touched.
 *             W6  The wheel must not move in memory (it contains list heads), and elapsed stays below 2^63; deadlines may
 *                 be any number, FR_WHEEL_NEVER included, which then simply goes round for ever.
 *             W7  ahead is an address to prefetch and nothing else: that timer may have been removed, and be gone. Who goes
 *                 along a long list of timers would otherwise wait for each of them in turn.
 * LOCKS       the caller's.
 * SHUTDOWN    remove the timers, or forget the wheel and them together.
 * PROVED BY   tests/test_wheel.c
 */
#ifndef FR_RT_WHEEL_H
#define FR_RT_WHEEL_H

#include "list.h"
#include "prefetch.h"
#include <stdint.h>

#define FR_WHEEL_LEVELS 6
#define FR_WHEEL_BITS   6
#define FR_WHEEL_SLOTS  (1 << FR_WHEEL_BITS)
#define FR_WHEEL_NEVER  UINT64_MAX
#define FR_WHEEL_AHEAD  4

enum { FR_TIMER_IDLE = 0xff };

struct fr_timer {
    struct fr_node node;
    uint64_t deadline;
    const struct fr_timer *ahead; /* at level 0, and expired: FR_WHEEL_AHEAD places on in the list, or NULL [W7] */
    uint8_t level, slot;          /* [W5] */
};

struct fr_wheel_level {
    uint64_t occupied;
    struct fr_node slots[FR_WHEEL_SLOTS];
};

struct fr_wheel {
    uint64_t elapsed;
    struct fr_wheel_level levels[FR_WHEEL_LEVELS];
};

void fr_wheel_init(struct fr_wheel *w, uint64_t now);

static inline void fr_timer_init(struct fr_timer *t)
{
    fr_list_node_init(&t->node);
    t->deadline = 0;
    t->level = FR_TIMER_IDLE;
    t->slot = 0;
}

/* In the wheel, not yet expired. */
static inline bool fr_timer_is_armed(const struct fr_wheel *w, const struct fr_timer *t)
{
    return t->level != FR_TIMER_IDLE && t->deadline > w->elapsed; /* [W5] */
}

/* Arms an idle timer. False if deadline <= elapsed: it is due, and was not inserted. */
bool fr_wheel_insert(struct fr_wheel *w, struct fr_timer *t, uint64_t deadline);

/* Takes the timer out of the wheel, or out of the list of expired ones; does nothing to an idle one. True if it was in
 * the wheel, that is, if this call prevented it from expiring. */
bool fr_wheel_remove(struct fr_wheel *w, struct fr_timer *t);

/* The next tick at which fr_wheel_advance() has something to do, a timer to expire or a slot to cascade: no timer is
 * due earlier. FR_WHEEL_NEVER if there is none. Always > elapsed. */
uint64_t fr_wheel_next(const struct fr_wheel *w);

/* Sets elapsed to now (unless it is later already) and appends every timer due by now to expired, in order of deadline.
 * Take them from there with fr_timer_pop_expired(). */
void fr_wheel_advance(struct fr_wheel *w, uint64_t now, struct fr_node *expired);

/* The next expired timer, now idle, or NULL. */
static inline struct fr_timer *fr_timer_pop_expired(struct fr_node *expired)
{
    struct fr_node *node = fr_list_pop_front(expired);
    if (node == NULL) {
        return NULL;
    }
    struct fr_timer *t = FR_CONTAINER_OF(node, struct fr_timer, node);
    if (t->ahead != NULL) {
        fr_prefetch(t->ahead, sizeof(*t));
    }
    t->level = FR_TIMER_IDLE;
    return t;
}

#endif
