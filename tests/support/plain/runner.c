/* Runs the tests of a program one after another, each in a process of its own; see criterion/criterion.h
 * here.
 *
 * usage: PROGRAM [--filter SUITE/NAME] [--timeout SECONDS], the filter with * and ? */
#include <criterion/criterion.h>
#include <criterion/redirect.h>
#include <fnmatch.h>
#include <stdarg.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

enum { EXIT_SKIPPED = 77, TIMEOUT_DEFAULT_S = 120 };

static struct plain_test *tests; /* in reverse order of definition */
static bool test_failed;         /* in the child: a cr_expect failed */
static FILE *captured;           /* in the child: where standard output goes */

void plain_add(struct plain_test *test)
{
    test->next = tests;
    tests = test;
}

void plain_fail(bool fatal, const char *file, int line, const char *what, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    (void)fprintf(stderr, "%s:%d: expected %s. ", file, line, what);
    (void)vfprintf(stderr, format, args);
    (void)fputc('\n', stderr);
    va_end(args);
    test_failed = true;
    if (fatal)
        exit(1);
}

void plain_skip(const char *format, ...)
{
    va_list args;
    va_start(args, format);
    (void)vfprintf(stderr, format, args);
    (void)fputc('\n', stderr);
    va_end(args);
    exit(EXIT_SKIPPED);
}

void plain_log(const char *format, ...)
{
    va_list args;
    va_start(args, format);
    (void)vfprintf(stderr, format, args);
    (void)fputc('\n', stderr);
    va_end(args);
}

void cr_redirect_stdout(void)
{
    captured = tmpfile();
    (void)fflush(stdout);
    if (captured == NULL || dup2(fileno(captured), STDOUT_FILENO) < 0) {
        perror("cr_redirect_stdout");
        exit(1);
    }
}

bool plain_stdout_is(const char *expected)
{
    static char text[1 << 16];
    (void)fflush(stdout);
    rewind(captured);
    size_t len = fread(text, 1, sizeof text - 1, captured);
    text[len] = '\0';
    if (strcmp(text, expected) != 0)
        (void)fprintf(stderr, "standard output was:\n%s\n", text);
    return strcmp(text, expected) == 0;
}

static const struct plain_options *suite_options(const struct plain_test *test)
{
    static const struct plain_options none;
    for (const struct plain_test *other = tests; other != NULL; other = other->next) {
        if (other->name == NULL && strcmp(other->suite, test->suite) == 0)
            return &other->options;
    }
    return &none;
}

static _Noreturn void run_child(const struct plain_test *test, double timeout_s)
{
    const struct plain_options *own = &test->options;
    const struct plain_options *suite = suite_options(test);
    void (*init)(void) = own->init != NULL ? own->init : suite->init;
    void (*fini)(void) = own->fini != NULL ? own->fini : suite->fini;
    double limit = own->timeout > 0 ? own->timeout : suite->timeout > 0 ? suite->timeout : timeout_s;
    (void)alarm((unsigned)limit + 1);
    if (init != NULL)
        init();
    test->body();
    if (fini != NULL)
        fini();
    exit(test_failed ? 1 : own->exit_code);
}

/* Runs one test; prints its outcome.  0 passed, 1 failed, EXIT_SKIPPED. */
static int run_test(const struct plain_test *test, double timeout_s)
{
    int status = 0;
    (void)fflush(NULL);
    pid_t child = fork();
    if (child == 0)
        run_child(test, timeout_s);
    if (child < 0 || waitpid(child, &status, 0) != child) {
        perror("fork");
        return 1;
    }
    int code = WIFEXITED(status) ? WEXITSTATUS(status) : -1;
    int number = WIFSIGNALED(status) ? WTERMSIG(status) : 0;
    if (code == EXIT_SKIPPED)
        return EXIT_SKIPPED;
    if (number == test->options.signal && (number != 0 || code == test->options.exit_code))
        return 0;
    (void)fprintf(stderr, "FAILED %s/%s: exit %d, signal %d\n", test->suite, test->name, code, number);
    return 1;
}

static bool wanted(const struct plain_test *test, const char *filter)
{
    char name[256];
    (void)snprintf(name, sizeof name, "%s/%s", test->suite, test->name != NULL ? test->name : "");
    return test->name != NULL && !test->options.disabled && fnmatch(filter, name, 0) == 0;
}

int main(int argc, char **argv)
{
    const char *filter = "*";
    double timeout_s = TIMEOUT_DEFAULT_S;
    int passed = 0;
    int failed = 0;
    int skipped = 0;
    for (int i = 1; i + 1 < argc; i++) {
        if (strcmp(argv[i], "--filter") == 0)
            filter = argv[++i];
        else if (strcmp(argv[i], "--timeout") == 0)
            timeout_s = strtod(argv[++i], NULL);
    }
    for (const struct plain_test *test = tests; test != NULL; test = test->next) {
        if (!wanted(test, filter))
            continue;
        int result = run_test(test, timeout_s);
        passed += result == 0;
        failed += result == 1;
        skipped += result == EXIT_SKIPPED;
    }
    printf("%d passed, %d failed, %d skipped\n", passed, failed, skipped);
    return failed != 0 || passed + skipped == 0;
}
