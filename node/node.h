/* A whole node: composition of every part into one running process.  main.c parses the command line and calls
 * this.
 */
#ifndef DUNLIN_NODE_NODE_H
#define DUNLIN_NODE_NODE_H

#include "node/config.h"

/* Runs a node until it is told to stop (SIGTERM, SIGINT or the control socket), then saves and closes
 * everything. Returns 0 after an orderly end; ERR_ codes say what kept it from starting, and why says it to
 * the person. */
MUST_USE int node_run(const struct node_config *config, char why[NODE_ERROR_SIZE]);

#endif
