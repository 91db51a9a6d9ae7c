/* The smallest value, the largest one and the histogram of rows of float32 values, in one pass.

Plain C that knows neither Python nor torch; _kernel.py calls it. It counts what Streaming counts with torch, in the same
bins: trunc(|x| factor), and -1 - that for a negative number where both sides are counted. Everything it returns is a
whole number or one of the values, so the result does not depend on how the work was divided. */

#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#ifdef _OPENMP
#include <omp.h>
#endif

/* One file for every x86-64: the loader takes the AVX2 copy of a function where the processor has it (glibc's ifunc). */
#if defined(__x86_64__) && defined(__GLIBC__) && (defined(__clang__) ? __clang_major__ >= 14 : __GNUC__ >= 8)
#define CLONES __attribute__((target_clones("avx2", "default")))
#else
#define CLONES
#endif

enum { SIZE, POSITIVE, BOTH };        /* _histogram.Side */
enum { BLOCK = 2048, COPIES = 4 };    /* indices made at a time; neighbours are counted apart, so that a count that is
                                         raised again at once need not wait for itself */
enum { LONG = 1 << 16 };              /* values for which clearing and adding up the copies does not matter */

typedef struct {
    int32_t low, high;
} Extent;

/* Returns the bits of a float as an integer of the same order; NaN and Inf lie outside all that is finite. */
static inline int32_t ordered(int32_t bits) { return bits ^ ((bits >> 31) & 0x7fffffff); }

static double value_of(int32_t key)
{
    int32_t bits = ordered(key);
    float value;
    memcpy(&value, &bits, sizeof value);
    return (double)value + 0.0; /* -0.0 is 0.0 */
}

CLONES static void find_extent(const float *restrict x, int64_t number, Extent *extent)
{
    int32_t low = extent->low, high = extent->high;
    for (int64_t i = 0; i < number; i++) {
        int32_t bits;
        memcpy(&bits, x + i, sizeof bits);
        int32_t key = ordered(bits);
        low = key < low ? key : low;
        high = key > high ? key : high;
    }
    extent->low = low;
    extent->high = high;
}

/* Writes the bin of every value, and widens the extent. A value beyond the last bin, or NaN, goes into the last bin: the
   caller sees it in the extent and does not use the counts. */
CLONES static void find_bins(const float *restrict x, int number, float factor, float last, int side, int32_t zero,
                             int32_t *restrict index, Extent *extent)
{
    int32_t low = extent->low, high = extent->high;
    const int32_t clamp = side == POSITIVE ? -1 : 0, mirror = side == BOTH ? -1 : 0;
    for (int i = 0; i < number; i++) {
        int32_t bits;
        memcpy(&bits, x + i, sizeof bits);
        int32_t key = ordered(bits);
        low = key < low ? key : low;
        high = key > high ? key : high;
        int32_t size = bits & 0x7fffffff & ~(clamp & (bits >> 31));
        float scaled;
        memcpy(&scaled, &size, sizeof scaled);
        scaled *= factor;
        scaled = scaled < last ? scaled : last;
        index[i] = ((int32_t)scaled ^ (mirror & -(int32_t)(x[i] < 0.0f))) + zero;
    }
    extent->low = low;
    extent->high = high;
}

static void count_bins(const int32_t *restrict index, int number, uint32_t *restrict counts, int64_t columns)
{
    int i = 0;
    if (columns) {
        uint32_t *second = counts + columns, *third = second + columns, *fourth = third + columns;
        for (; i + COPIES <= number; i += COPIES) {
            counts[index[i]]++;
            second[index[i + 1]]++;
            third[index[i + 2]]++;
            fourth[index[i + 3]]++;
        }
    }
    for (; i < number; i++) counts[index[i]]++;
}

/* Counts one piece of a row into ``scratch`` and adds that to the counts of the row, which other threads may do, too. */
static void count_piece(const float *x, int64_t number, float factor, int side, int64_t columns, uint32_t *scratch,
                        int64_t *counts, Extent *extent)
{
    int32_t index[BLOCK], zero = side == BOTH ? (int32_t)(columns / 2) : 0;
    float last = (float)(columns - zero - 1);
    int copies = number >= LONG ? COPIES : 1;
    memset(scratch, 0, (size_t)columns * (size_t)copies * sizeof *scratch);
    for (int64_t at = 0; at < number; at += BLOCK) {
        int some = (int)(number - at < BLOCK ? number - at : BLOCK);
        find_bins(x + at, some, factor, last, side, zero, index, extent);
        count_bins(index, some, scratch, copies > 1 ? columns : 0);
    }
    for (int64_t k = 0; k < columns; k++) {
        int64_t found = 0;
        for (int copy = 0; copy < copies; copy++) found += scratch[copy * columns + k];
        if (!found) continue;
#ifdef _OPENMP
#pragma omp atomic
#endif
        counts[k] += found;
    }
}

/* Finds the extent of each row and, if ``counts`` is given, adds its histogram to it.

   x: ``rows`` rows of ``number`` values, ``stride`` apart. factor: bins per unit, per row. counts: [rows, columns].
   low, high: per row. Returns 0, or 1 when there was no memory; then nothing of it may be used. */
#ifdef _WIN32
__declspec(dllexport)
#endif
int quantwright_scan(const float *x, int64_t rows, int64_t number, int64_t stride, const float *factor, int side,
                     int64_t columns, int64_t *counts, double *low, double *high, int threads)
{
    int failed = 0;
    int64_t pieces = rows < threads ? threads : 1, tasks = rows * pieces;
    Extent *extents = malloc((size_t)tasks * sizeof *extents);
    if (!extents) return 1;
#ifdef _OPENMP
#pragma omp parallel num_threads(threads) reduction(| : failed)
#endif
    {
        uint32_t *scratch = counts ? malloc((size_t)columns * COPIES * sizeof *scratch) : NULL;
        failed |= counts && !scratch;
        int usable = !failed;
#ifdef _OPENMP
#pragma omp for schedule(static)
#endif
        for (int64_t task = 0; task < tasks; task++) {
            if (!usable) continue;
            int64_t row = task / pieces, piece = task % pieces;
            int64_t from = number * piece / pieces, length = number * (piece + 1) / pieces - from;
            const float *start = x + row * stride + from;
            Extent extent = {INT32_MAX, INT32_MIN};
            if (counts)
                count_piece(start, length, factor[row], side, columns, scratch, counts + row * columns, &extent);
            else
                find_extent(start, length, &extent);
            extents[task] = extent;
        }
        free(scratch);
    }
    for (int64_t row = 0; row < rows && !failed; row++) {
        Extent whole = extents[row * pieces];
        for (int64_t task = row * pieces; task < (row + 1) * pieces; task++) {
            whole.low = extents[task].low < whole.low ? extents[task].low : whole.low;
            whole.high = extents[task].high > whole.high ? extents[task].high : whole.high;
        }
        low[row] = value_of(whole.low);
        high[row] = value_of(whole.high);
    }
    free(extents);
    return failed;
}
