/* list: intrusive, circular, doubly linked list. The list head is itself a node.
 *
 * THREADS     none of its own: whoever owns the list (a lock, a worker) serialises every call.
 * STATE       attached thread state: not needed.
 * OWNERSHIP   being linked owns nothing; each user says who keeps the container alive.
 * FIELDS      prev, next  plain; both NULL in a node that is in no list.
 * INVARIANTS  L1  A node is in at most one list. L2  A removed node is NULL-linked, so fr_list_is_linked() is exact.
 *             L3  A list head must not move in memory while nodes are linked to it (splice instead).
 * LOCKS       the caller's.
 * SHUTDOWN    nothing to do.
 * PROVED BY   tests/test_wheel.c
 */
#ifndef FR_RT_LIST_H
#define FR_RT_LIST_H

#include <assert.h>
#include <stdbool.h>
#include <stddef.h>

struct fr_node {
    struct fr_node *prev, *next;
};

#define FR_CONTAINER_OF(ptr, type, member) ((type *)(void *)((char *)(ptr) - offsetof(type, member)))

/* Makes an empty list. */
static inline void fr_list_init(struct fr_node *list)
{
    list->prev = list->next = list;
}

/* Makes a node that is in no list. */
static inline void fr_list_node_init(struct fr_node *node)
{
    node->prev = node->next = NULL;
}

static inline bool fr_list_is_linked(const struct fr_node *node)
{
    return node->next != NULL;
}

static inline bool fr_list_is_empty(const struct fr_node *list)
{
    return list->next == list;
}

static inline void fr_list_insert_between(struct fr_node *node, struct fr_node *prev, struct fr_node *next)
{
    assert(!fr_list_is_linked(node));
    node->prev = prev;
    node->next = next;
    prev->next = node;
    next->prev = node;
}

static inline void fr_list_push_back(struct fr_node *list, struct fr_node *node)
{
    fr_list_insert_between(node, list->prev, list);
}

static inline void fr_list_push_front(struct fr_node *list, struct fr_node *node)
{
    fr_list_insert_between(node, list, list->next);
}

/* The node must be linked. */
static inline void fr_list_remove(struct fr_node *node)
{
    assert(fr_list_is_linked(node));
    node->prev->next = node->next;
    node->next->prev = node->prev;
    fr_list_node_init(node);
}

/* The first node, left linked; NULL if the list is empty. */
static inline struct fr_node *fr_list_front(const struct fr_node *list)
{
    return fr_list_is_empty(list) ? NULL : list->next;
}

static inline struct fr_node *fr_list_pop_front(struct fr_node *list)
{
    struct fr_node *node = fr_list_front(list);
    if (node != NULL) {
        fr_list_remove(node);
    }
    return node;
}

/* Moves all of src to the back of dst, in order; src is left empty. */
static inline void fr_list_splice(struct fr_node *dst, struct fr_node *src)
{
    if (fr_list_is_empty(src)) {
        return;
    }
    struct fr_node *first = src->next, *last = src->prev;
    first->prev = dst->prev;
    dst->prev->next = first;
    last->next = dst;
    dst->prev = last;
    fr_list_init(src);
}

#endif
