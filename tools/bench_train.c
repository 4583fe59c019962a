/* Training speed of the built-in trainer: steps on random windows of generated text, the time of each, one
 * line of JSON.  tools/bench.d/train runs it beside PyTorch. */
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "train/gemm.h"
#include "train/trainer.h"

enum { STEPS_MAX = 1000, TEXT_BYTES = 1 << 20 };

struct settings {
    struct trainer_options options;
    size_t steps, warmup;
};

static void usage(FILE *to)
{
    fprintf(
        to,
        "usage: bench_train [--width N] [--layers N] [--heads N] [--context N] [--batch N] [--threads N]\n"
        "                   [--micro N] [--steps N] [--warmup N]\n"
        "Prints tokens per second, from the median step, as JSON.\n");
}

static uint32_t number(const char *text)
{
    char *end;
    unsigned long value = strtoul(text, &end, 10);
    if (*text == '\0' || *end != '\0' || value > 1000000) {
        fprintf(stderr, "bench_train: \"%s\" is not a number from 0 to 1000000\n", text);
        exit(2);
    }
    return (uint32_t)value;
}

static struct settings parse(int argc, char **argv)
{
    static const struct option known[] = {
        {"width", 1, NULL, 'w'},   {"layers", 1, NULL, 'l'}, {"heads", 1, NULL, 'a'},
        {"context", 1, NULL, 'c'}, {"batch", 1, NULL, 'b'},  {"threads", 1, NULL, 't'},
        {"micro", 1, NULL, 'm'},   {"steps", 1, NULL, 's'},  {"warmup", 1, NULL, 'u'},
        {"help", 0, NULL, 'h'},    {NULL, 0, NULL, 0},
    };
    struct settings s = {.options = trainer_options_default(), .steps = 5, .warmup = 1};
    struct train_model_config *model = &s.options.model;
    for (int c = getopt_long(argc, argv, "", known, NULL); c != -1;
         c = getopt_long(argc, argv, "", known, NULL)) {
        switch (c) {
        case 'w':
            model->width = number(optarg);
            break;
        case 'l':
            model->layers = number(optarg);
            break;
        case 'a':
            model->heads = number(optarg);
            break;
        case 'c':
            model->context = number(optarg);
            break;
        case 'b':
            s.options.batch = number(optarg);
            break;
        case 't':
            s.options.threads = number(optarg);
            break;
        case 'm':
            s.options.micro = number(optarg);
            break;
        case 's':
            s.steps = number(optarg);
            break;
        case 'u':
            s.warmup = number(optarg);
            break;
        case 'h':
            usage(stdout);
            exit(0);
        default:
            usage(stderr);
            exit(2);
        }
    }
    if (optind != argc || s.steps < 1 || s.steps > STEPS_MAX) {
        usage(stderr);
        exit(2);
    }
    return s;
}

/* Speed does not depend on what the text says, only that there is enough of it. */
static void write_text(char path[])
{
    int descriptor = mkstemp(path);
    FILE *file = descriptor < 0 ? NULL : fdopen(descriptor, "w");
    if (file == NULL) {
        perror(path);
        exit(1);
    }
    uint32_t state = 1;
    for (size_t i = 0; i < TEXT_BYTES; i++) {
        state = state * 1664525U + 1013904223U;
        (void)fputc("etaoin shrdlu,\n."[state >> 28], file);
    }
    if (fclose(file) != 0) {
        perror(path);
        exit(1);
    }
}

static double seconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

static int by_value(const void *a, const void *b)
{
    const double *x = a, *y = b;
    return (*x > *y) - (*x < *y);
}

static int measure(struct trainer *trainer, const struct settings *s)
{
    static double times[STEPS_MAX];
    struct trainer_report report = {.tokens = 0};
    for (size_t i = 0; i < s->warmup + s->steps; i++) {
        double start = seconds();
        int result = trainer_step(trainer, 1e-3F, &report);
        if (result < 0) {
            fprintf(stderr, "bench_train: step failed: %s\n", err_text(result));
            return 1;
        }
        if (i >= s->warmup)
            times[i - s->warmup] = seconds() - start;
    }
    qsort(times, s->steps, sizeof *times, by_value);
    double median = times[s->steps / 2];
    printf(
        "{\"tokens_per_s\": %.1f, \"step_s\": %.5f, \"loss\": %.4f, \"tokens\": %llu, \"parameters\": %zu, "
        "\"threads\": %u, \"kernels\": \"%s\", \"bytes\": %zu}\n",
        (double)report.tokens / median, median, report.loss, (unsigned long long)report.tokens,
        trainer->layout->parameter_count, s->options.threads, train_gemm_name(), trainer_bytes(&s->options));
    return 0;
}

int main(int argc, char **argv)
{
    char path[] = "/tmp/dunlin-bench-XXXXXX", why[TRAIN_WHY_SIZE];
    struct settings s = parse(argc, argv);
    struct allocator heap = allocator_system();
    struct train_data *data = NULL;
    struct trainer trainer;
    if (trainer_options_check(&s.options, why, sizeof why) < 0) {
        fprintf(stderr, "bench_train: %s\n", why);
        return 2;
    }
    write_text(path);
    struct train_data_config config = {.path = path, .context = s.options.model.context};
    int result = train_data_open(&config, &heap, &data, why, sizeof why);
    (void)unlink(path);
    if (result < 0) {
        fprintf(stderr, "bench_train: %s\n", why);
        return 1;
    }
    result = trainer_create_builtin(&s.options, data, &heap, &trainer);
    if (result < 0) {
        fprintf(stderr, "bench_train: %zu bytes: %s\n", trainer_bytes(&s.options), err_text(result));
        train_data_close(data);
        return 1;
    }
    int status = measure(&trainer, &s);
    trainer_destroy(&trainer);
    train_data_close(data);
    return status;
}
