/* Rows of floating point: scalar, vectors, x87. */
#include <math.h>
#include <string.h>

#include "rows.h"

/* Five bodies under their gravity, in scalar double. */
#define BODIES 5
#define STEPS 500

struct body { double at[3], speed[3], mass; };

static const struct body start[BODIES] = {
    { { 0, 0, 0 }, { 0, 0, 0 }, 39.5 },
    { { 4.84, -1.16, -0.10 }, { 0.60, 2.81, -0.02 }, 0.038 },
    { { 8.34, 4.12, -0.40 }, { -1.01, 1.82, 0.008 }, 0.011 },
    { { 12.9, -15.1, -0.22 }, { 1.08, 0.87, -0.01 }, 0.0017 },
    { { 15.4, -25.9, 0.18 }, { 0.98, 0.59, -0.035 }, 0.002 },
};

static void attract(struct body *a, struct body *b, double step)
{
    double dx = a->at[0] - b->at[0], dy = a->at[1] - b->at[1], dz = a->at[2] - b->at[2];
    double square = dx * dx + dy * dy + dz * dz;
    double pull = step / (square * sqrt(square));
    double to_a = b->mass * pull, to_b = a->mass * pull;
    a->speed[0] -= dx * to_a, a->speed[1] -= dy * to_a, a->speed[2] -= dz * to_a;
    b->speed[0] += dx * to_b, b->speed[1] += dy * to_b, b->speed[2] += dz * to_b;
}

__attribute__((optimize("no-tree-vectorize")))
static uint64_t nbody(uint64_t n)
{
    struct body bodies[BODIES];
    while (n--) {
        memcpy(bodies, start, sizeof start);
        for (int step = 0; step < STEPS; step++) {
            for (int i = 0; i < BODIES; i++)
                for (int j = i + 1; j < BODIES; j++)
                    attract(&bodies[i], &bodies[j], 0.001);
            for (int i = 0; i < BODIES; i++)
                for (int axis = 0; axis < 3; axis++)
                    bodies[i].at[axis] += 0.001 * bodies[i].speed[axis];
        }
    }
    return check_of(bodies, sizeof bodies);
}

/* Product of two matrices, the inner loop in vectors of the baseline. */
#define SIZE 96

__attribute__((optimize("O3")))
static void multiply(double (*restrict c)[SIZE], double (*restrict a)[SIZE], double (*restrict b)[SIZE])
{
    memset(c, 0, sizeof(double[SIZE][SIZE]));
    for (int i = 0; i < SIZE; i++)
        for (int k = 0; k < SIZE; k++)
            for (int j = 0; j < SIZE; j++)
                c[i][j] += a[i][k] * b[k][j];
}

static uint64_t matrix(uint64_t n)
{
    static double a[SIZE][SIZE], b[SIZE][SIZE], c[SIZE][SIZE];
    for (int i = 0; i < SIZE; i++)
        for (int j = 0; j < SIZE; j++)
            a[i][j] = i - 0.5 * j, b[i][j] = 1.0 / (1 + i + j);
    while (n--) {
        multiply(c, a, b);
        __asm__ volatile("" ::: "memory");
    }
    return check_of(c, sizeof c);
}

/* long double is x87: a continued fraction with a root in it. */
#define X87_STEPS 5000

static uint64_t x87(uint64_t n)
{
    long double value = 0;
    while (n--) {
        value = 1.5L;
        for (int i = 1; i <= X87_STEPS; i++)
            value = sqrtl(value * 1.25L + 2.0L / i) + 1.0L / (value + i);
    }
    double rounded = (double)value;
    return check_of(&rounded, sizeof rounded);
}

const struct row floating_rows[] = {
    { "nbody", nbody, 1, 0, 0 },
    { "matrix", matrix, 1, 0, 0 },
    { "x87", x87, 1, 0, 0 },
    { 0, 0, 0, 0, 0 },
};
