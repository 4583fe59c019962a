/* Circular doubly linked list whose links live inside the elements; a link outside any list points at itself.
 */
#ifndef DUNLIN_NET_QUIC_LIST_H
#define DUNLIN_NET_QUIC_LIST_H

#include <stdbool.h>
#include <stddef.h>

struct quic_link {
    struct quic_link *next, *prev;
};

/* The structure of this type whose member is at this link. */
#define QUIC_OWNER(link, type, member) ((type *)(void *)((char *)(link)-offsetof(type, member)))

/* An empty list head, or an element in no list. */
static inline void quic_link_init(struct quic_link *link)
{
    link->next = link;
    link->prev = link;
}

/* For a list head: true when it holds nothing.  For an element: true when it is in no list. */
static inline bool quic_link_alone(const struct quic_link *link)
{
    return link->next == link;
}

/* Takes link out of whatever list it is in. */
static inline void quic_link_remove(struct quic_link *link)
{
    link->prev->next = link->next;
    link->next->prev = link->prev;
    quic_link_init(link);
}

/* Puts link last in list, out of wherever it was. */
static inline void quic_link_append(struct quic_link *list, struct quic_link *link)
{
    quic_link_remove(link);
    link->prev = list->prev;
    link->next = list;
    list->prev->next = link;
    list->prev = link;
}

#endif
