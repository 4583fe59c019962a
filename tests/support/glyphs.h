/* Drawn digits, 8 x 8 pixels of 0 .. 16 with a class of 0 .. 9: like the classic digits data in shape and
 * range, made on the spot, so that no data set is needed.  Every picture is one of ten glyphs, shifted by up
 * to a pixel, of varying strength, with noise. */
#ifndef DUNLIN_TESTS_GLYPHS_H
#define DUNLIN_TESTS_GLYPHS_H

#include <stddef.h>
#include <stdint.h>

enum { GLYPH_PIXELS = 64, GLYPH_CLASSES = 10 };

/* Fills pixels [count][GLYPH_PIXELS] and labels [count]; the same seed, the same pictures. */
void glyphs_fill(uint64_t seed, size_t count, float pixels[], uint16_t labels[]);

#endif
