/* Text for people: units at their boundaries, aligned columns, and no way for a peer's words to steer the
 * terminal. */
#include <criterion/criterion.h>
#include <criterion/redirect.h>
#include <math.h>
#include <string.h>

#include "tools/dunlin/text.h"

Test(cli_text, units)
{
    cr_assert_str_eq(text_bytes(0).text, "0 B");
    cr_assert_str_eq(text_bytes(1023).text, "1023 B");
    cr_assert_str_eq(text_bytes(1024).text, "1.0 KiB");
    cr_assert_str_eq(text_bytes(3.5 * 1048576).text, "3.5 MiB");
    cr_assert_str_eq(text_bytes(NAN).text, "-");
    cr_assert_str_eq(text_count(999).text, "999");
    cr_assert_str_eq(text_count(12345).text, "12.3k");
    cr_assert_str_eq(text_count(4560000).text, "4.56M");
    cr_assert_str_eq(text_seconds(0.25).text, "0.2 s");
    cr_assert_str_eq(text_seconds(200).text, "3m 20s");
    cr_assert_str_eq(text_seconds(7500).text, "2h 05m");
    cr_assert_str_eq(text_seconds(100 * 3600).text, "4d 04h");
    cr_assert_str_eq(text_seconds(-1).text, "-");
    cr_assert_str_eq(text_fixed(1.23456, 3).text, "1.235");
    cr_assert_str_eq(text_fixed(INFINITY, 3).text, "-");
    cr_assert_str_eq(text_small(0.00213).text, "0.0021");
    cr_assert_str_eq(text_small(3.1e-8).text, "3.1e-08");
    cr_assert_str_eq(text_small(NAN).text, "-");
    cr_assert_str_eq(text_id("abcdefghijklmnop").text, "abcdefghij");
    cr_assert_str_eq(text_id(NULL).text, "-");
}

Test(cli_text, table_aligns, .init = cr_redirect_stdout)
{
    struct table table;
    table_init(&table, "name|>n");
    table_cell(&table, "%s", "h\u00e9");
    table_cell(&table, "%d", 5);
    table_cell(&table, "longer");
    table_cell(&table, "%d", 12345);
    table_finish(&table, "none");
    (void)fflush(stdout);
    cr_assert_stdout_eq_str("name        n\nh\u00e9          5\nlonger  12345\n");
}

Test(cli_text, empty_table_says_so, .init = cr_redirect_stdout)
{
    struct table table;
    table_init(&table, "name|>n");
    table_finish(&table, "nothing here");
    (void)fflush(stdout);
    cr_assert_stdout_eq_str("nothing here\n");
}

Test(cli_text, control_characters_are_harmless, .init = cr_redirect_stdout)
{
    text_write_safe(stdout,
                    "a\x1b[2Jb\r\n\tc\xc2\x9b"
                    "d\x7f",
                    false);
    text_write_safe(stdout, "|x\n\ty\x1b", true);
    (void)fflush(stdout);
    cr_assert_stdout_eq_str("a?[2Jb???c?d?|x\n\ty?");
}
