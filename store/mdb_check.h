/* Checks the structure of an LMDB 0.9 file without trusting a byte of it, because LMDB itself has no
 * checksums and answers damage with a failed assertion or a bus error.  Private to store/. */
#ifndef DUNLIN_STORE_MDB_CHECK_H
#define DUNLIN_STORE_MDB_CHECK_H

#include "store/file.h"

/* Walks every page reachable from the newest meta page: each lies inside the file, is of the right kind, is
 * used once and is not on the free list; nodes lie inside their page.  Contents are not judged (values carry
 * their own checksum).  0 also for a missing or empty file.  O(file size); the file must not change
 * meanwhile. ERR_CORRUPT: damaged, or no LMDB file; ERR_VERSION: of another LMDB format; ERR_IO,
 * ERR_PERMISSION, ERR_NO_MEMORY.  *why (may be NULL) says what was found where. */
MUST_USE int store_mdb_check(const char *path, const struct allocator *alloc, struct store_why *why);

#endif
