#include "support/glyphs.h"

#include <stdbool.h>

#include "base/rng.h"

/* Five columns by seven rows, the top row first. */
static const char *const shapes[GLYPH_CLASSES] = {
    ".###.#...##..###.#.###..##...#.###.", "..#...##....#....#....#....#...###.",
    ".###.#...#....#...#...#...#...#####", ".###.#...#....#..##.....##...#.###.",
    "...#...##..#.#.#..#.#####...#....#.", "######....####.....#....##...#.###.",
    ".###.#....#....####.#...##...#.###.", "#####....#...#...#...#....#....#...",
    ".###.#...##...#.###.#...##...#.###.", ".###.#...##...#.####....#....#.###.",
};

void glyphs_fill(uint64_t seed, size_t count, float pixels[], uint16_t labels[])
{
    struct rng_seeded stream;
    rng_seeded_init(&stream, seed);
    struct rng rng = rng_of_seeded(&stream);
    for (size_t i = 0; i < count; i++) {
        labels[i] = (uint16_t)rng_below(&rng, GLYPH_CLASSES);
        size_t left = (size_t)rng_below(&rng, 3), top = (size_t)rng_below(&rng, 2);
        float strength = 8 + (float)rng_below(&rng, 8);
        for (size_t p = 0; p < GLYPH_PIXELS; p++) {
            size_t x = p % 8 - left, y = p / 8 - top; /* wraps to huge outside the glyph */
            bool ink = x < 5 && y < 7 && shapes[labels[i]][y * 5 + x] == '#';
            float value = (ink ? strength : 0) + (float)rng_below(&rng, 7) - 3;
            pixels[i * GLYPH_PIXELS + p] = value < 0 ? 0 : value > 16 ? 16 : value;
        }
    }
}
