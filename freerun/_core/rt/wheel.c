#include "wheel.h"

void fr_wheel_init(struct fr_wheel *w, uint64_t now)
{
    w->elapsed = now;
    for (int level = 0; level < FR_WHEEL_LEVELS; level++) {
        w->levels[level].occupied = 0;
        for (int slot = 0; slot < FR_WHEEL_SLOTS; slot++) {
            fr_list_init(&w->levels[level].slots[slot]);
        }
    }
}

static uint32_t fr_wheel_digit(uint64_t tick, uint32_t level)
{
    return (uint32_t)(tick >> (level * FR_WHEEL_BITS)) & (FR_WHEEL_SLOTS - 1);
}

/* The highest digit in which the two differ [W3]. */
static uint32_t fr_wheel_level_for(uint64_t elapsed, uint64_t deadline)
{
    uint64_t differ = (elapsed ^ deadline) | 1; /* the deadline itself: level 0, to be expired at once */
    uint32_t level = (63 - (uint32_t)__builtin_clzll(differ)) / FR_WHEEL_BITS;
    return level < FR_WHEEL_LEVELS ? level : FR_WHEEL_LEVELS - 1;
}

/* The last timer of a slot becomes `ahead` of the one that many places before it [W7]. */
static void fr_wheel_link_ahead(struct fr_node *slot)
{
    struct fr_node *before = slot->prev;
    const struct fr_timer *last = FR_CONTAINER_OF(before, struct fr_timer, node);
    for (int i = 0; i < FR_WHEEL_AHEAD; i++) {
        before = before->prev;
        if (before == slot) {
            return;
        }
    }
    FR_CONTAINER_OF(before, struct fr_timer, node)->ahead = last;
}

static void fr_wheel_place(struct fr_wheel *w, struct fr_timer *t)
{
    uint32_t level = fr_wheel_level_for(w->elapsed, t->deadline), slot = fr_wheel_digit(t->deadline, level);
    t->level = (uint8_t)level;
    t->slot = (uint8_t)slot;
    fr_list_push_back(&w->levels[level].slots[slot], &t->node);
    if (level == 0) {
        fr_wheel_link_ahead(&w->levels[0].slots[slot]);
    }
    w->levels[level].occupied |= (uint64_t)1 << slot;
}

bool fr_wheel_insert(struct fr_wheel *w, struct fr_timer *t, uint64_t deadline)
{
    assert(t->level == FR_TIMER_IDLE);
    if (deadline <= w->elapsed) {
        return false;
    }
    t->deadline = deadline;
    t->ahead = NULL;
    fr_wheel_place(w, t);
    return true;
}

bool fr_wheel_remove(struct fr_wheel *w, struct fr_timer *t)
{
    if (t->level == FR_TIMER_IDLE) {
        return false;
    }
    fr_list_remove(&t->node);
    bool armed = fr_timer_is_armed(w, t);
    if (armed) {
        struct fr_wheel_level *level = &w->levels[t->level];
        if (fr_list_is_empty(&level->slots[t->slot])) {
            level->occupied &= ~((uint64_t)1 << t->slot); /* [W4] */
        }
    }
    t->level = FR_TIMER_IDLE;
    return armed;
}

/* The start of the first occupied slot after elapsed's, in a level that is not empty; elapsed's own slot comes last,
 * one round later [W3]. */
static uint64_t fr_wheel_next_slot(const struct fr_wheel *w, uint32_t level)
{
    uint64_t occupied = w->levels[level].occupied;
    uint64_t now = w->elapsed >> (level * FR_WHEEL_BITS); /* in slots of this level */
    uint32_t first = (uint32_t)(now + 1) & (FR_WHEEL_SLOTS - 1);
    uint64_t rotated = occupied >> first | occupied << ((FR_WHEEL_SLOTS - first) & (FR_WHEEL_SLOTS - 1));
    return (now + 1 + (uint32_t)__builtin_ctzll(rotated)) << (level * FR_WHEEL_BITS);
}

/* As fr_wheel_next(), and at which level. */
static uint64_t fr_wheel_next_level(const struct fr_wheel *w, uint32_t *level)
{
    for (*level = 0; *level < FR_WHEEL_LEVELS; *level += 1) {
        if (w->levels[*level].occupied != 0) {
            return fr_wheel_next_slot(w, *level);
        }
    }
    return FR_WHEEL_NEVER;
}

uint64_t fr_wheel_next(const struct fr_wheel *w)
{
    uint32_t level;
    return fr_wheel_next_level(w, &level);
}

/* The timers of a slot above level 0 move down; those that are due by now expire. */
static void fr_wheel_cascade(struct fr_wheel *w, struct fr_node *slot, struct fr_node *expired)
{
    struct fr_node moving, *node;
    fr_list_init(&moving);
    fr_list_splice(&moving, slot); /* at the top level some come back */
    while ((node = fr_list_pop_front(&moving)) != NULL) {
        struct fr_timer *t = FR_CONTAINER_OF(node, struct fr_timer, node);
        if (t->deadline > w->elapsed) {
            fr_wheel_place(w, t);
        } else {
            fr_list_push_back(expired, node);
        }
    }
}

/* elapsed has just become the start of a slot of this level: its timers expire or move down. */
static void fr_wheel_open_slot(struct fr_wheel *w, uint32_t level, struct fr_node *expired)
{
    uint32_t digit = fr_wheel_digit(w->elapsed, level);
    struct fr_node *slot = &w->levels[level].slots[digit];
    w->levels[level].occupied &= ~((uint64_t)1 << digit);
    if (level == 0) {
        fr_list_splice(expired, slot); /* all have this very deadline [W3]; none is touched [W5] */
    } else {
        fr_wheel_cascade(w, slot, expired);
    }
}

void fr_wheel_advance(struct fr_wheel *w, uint64_t now, struct fr_node *expired)
{
    uint32_t level;
    uint64_t next;
    while ((next = fr_wheel_next_level(w, &level)) <= now && next != FR_WHEEL_NEVER) {
        assert(next > w->elapsed);
        w->elapsed = next;
        fr_wheel_open_slot(w, level, expired);
    }
    if (now > w->elapsed) {
        w->elapsed = now;
    }
}
