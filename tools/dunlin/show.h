/* Parts of the output that several commands share. */
#ifndef DUNLIN_TOOLS_SHOW_H
#define DUNLIN_TOOLS_SHOW_H

#include <jansson.h>

/* One row a run. */
void show_runs_table(const json_t *runs);

#endif
