#include "fixture.h"

/* Content of a file as text, or "" when there is none. */
static void slurp(const char *path, char out[64])
{
    struct allocator heap = allocator_system();
    uint8_t *data;
    size_t len;
    out[0] = '\0';
    if (store_file_read(path, 63, &heap, &data, &len) < 0)
        return;
    memcpy(out, data, len + 1);
    allocator_release(&heap, data);
}

/* A reader gets exactly what was written, and nothing above its cap; we write, replace and read at the cap.
 */
Test(file, write_read_replace)
{
    char dir[64];
    char path[STORE_PATH_MAX];
    char text[64];
    struct store_io io = store_io_system();
    struct allocator heap = allocator_system();
    uint8_t *data;
    size_t len;
    directory_make(dir);
    cr_assert_eq(store_path_join(dir, "file", path, sizeof path), ERR_OK);
    cr_assert_eq(store_file_read(path, 10, &heap, &data, &len), ERR_NOT_FOUND);
    cr_assert_eq(store_file_write(&io, path, bytes_of_text("one"), 0600, false), ERR_OK);
    cr_assert_eq(store_file_write(&io, path, bytes_of_text("two"), 0600, false), ERR_EXISTS);
    slurp(path, text);
    cr_assert_str_eq(text, "one");
    cr_assert_eq(store_file_write(&io, path, bytes_of_text("three"), 0600, true), ERR_OK);
    slurp(path, text);
    cr_assert_str_eq(text, "three");
    cr_assert_eq(store_file_read(path, 4, &heap, &data, &len), ERR_TOO_LARGE);
    cr_assert_eq(store_file_read(path, 5, &heap, &data, &len), ERR_OK);
    cr_assert_eq(len, 5);
    allocator_release(&heap, data);
    struct stat st;
    cr_assert_eq(stat(path, &st), 0);
    cr_assert_eq(st.st_mode & 0777, 0600);
    directory_remove(dir);
}

/* Whatever system call fails, the file holds the old or the new content, whole, and says so by its result; we
 * fail each in turn, with and without replacing, with half of a write done. */
Test(file, every_fault_leaves_old_or_new)
{
    char dir[64];
    char path[STORE_PATH_MAX];
    char text[64];
    struct store_io sound = store_io_system();
    directory_make(dir);
    cr_assert_eq(store_path_join(dir, "file", path, sizeof path), ERR_OK);
    for (int replace = 0; replace < 2; replace++) {
        for (size_t n = 1;; n++) {
            struct fault_io fault = {.fail_at = n, .error = n % 2 == 0 ? ENOSPC : EIO, .half = true};
            struct store_io io = fault_io_view(&fault);
            (void)unlink(path);
            if (replace)
                cr_assert_eq(store_file_write(&sound, path, bytes_of_text("old"), 0600, true), ERR_OK);
            int rc = store_file_write(&io, path, bytes_of_text("newer"), 0600, replace);
            slurp(path, text);
            if (rc == 0)
                cr_assert_str_eq(text, "newer", "call %zu", n);
            else
                cr_assert(strcmp(text, replace ? "old" : "") == 0 || strcmp(text, "newer") == 0,
                          "call %zu: %s", n, text);
            /* and the next attempt is not disturbed by what the failed one left */
            cr_assert_eq(store_file_write(&sound, path, bytes_of_text("next"), 0600, true), ERR_OK);
            if (fault.calls < n)
                break;
        }
    }
    directory_remove(dir);
}

/* Nested directories appear with mode 0700, twice is fine, and a file in the way is reported. */
Test(file, directories)
{
    char dir[64];
    char path[STORE_PATH_MAX];
    struct store_io io = store_io_system();
    struct stat st;
    directory_make(dir);
    cr_assert_eq(store_path_join(dir, "a/b/c", path, sizeof path), ERR_OK);
    cr_assert_eq(store_dir_make(path), ERR_OK);
    cr_assert_eq(store_dir_make(path), ERR_OK);
    cr_assert_eq(stat(path, &st), 0);
    cr_assert_eq(st.st_mode & 0777, 0700);
    cr_assert_eq(store_path_join(dir, "file", path, sizeof path), ERR_OK);
    cr_assert_eq(store_file_write(&io, path, bytes_of_text("x"), 0600, true), ERR_OK);
    cr_assert_lt(store_dir_make(path), 0);
    char small[8];
    cr_assert_eq(store_path_join(dir, "file", small, sizeof small), ERR_TOO_LARGE);
    directory_remove(dir);
}
