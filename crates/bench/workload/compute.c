/* Rows that compute: no system call, little memory. */
#define _GNU_SOURCE
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "rows.h"

/* Sieve of Eratosthenes; the check is the number of primes. */
#define SIEVE_END (1 << 20)

static uint64_t sieve(uint64_t n)
{
    static unsigned char composite[SIEVE_END];
    uint64_t primes = 0;
    while (n--) {
        primes = 0;
        memset(composite, 0, sizeof composite);
        for (uint32_t i = 2; i < SIEVE_END; i++) {
            if (composite[i])
                continue;
            primes++;
            for (uint64_t j = (uint64_t)i * i; j < SIEVE_END; j += i)
                composite[j] = 1;
        }
    }
    return primes;
}

#define SORT_LENGTH 20000

static int compare(const void *a, const void *b)
{
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return (x > y) - (x < y);
}

static uint64_t sort(uint64_t n)
{
    static uint32_t numbers[SORT_LENGTH];
    while (n--) {
        uint32_t seed = 2463534242;
        for (int i = 0; i < SORT_LENGTH; i++)
            numbers[i] = next_random(&seed);
        qsort(numbers, SORT_LENGTH, sizeof *numbers, compare);
    }
    return check_of(numbers, sizeof numbers);
}

/* CRC-32, bit by bit. */
#define CRC_LENGTH (16 << 10)

static uint64_t crc(uint64_t n)
{
    static unsigned char bytes[CRC_LENGTH];
    uint32_t crc = 0;
    for (int i = 0; i < CRC_LENGTH; i++)
        bytes[i] = i * 7;
    while (n--) {
        crc = ~0u;
        for (int i = 0; i < CRC_LENGTH; i++) {
            crc ^= bytes[i];
            for (int bit = 0; bit < 8; bit++)
                crc = (crc >> 1) ^ (0xedb88320 & -(crc & 1));
        }
        /* What was computed before may not be taken again. */
        __asm__ volatile("" ::: "memory");
    }
    return ~crc;
}

/* Calls that stay calls: no inlining, no loop made of the second one. */
__attribute__((noinline, noclone, optimize("no-optimize-sibling-calls")))
static uint64_t fibonacci(uint64_t n)
{
    return n < 2 ? n : fibonacci(n - 1) + fibonacci(n - 2);
}

static uint64_t calls(uint64_t n)
{
    uint64_t result = 0;
    while (n--) {
        volatile uint64_t argument = 22;
        result = fibonacci(argument);
    }
    return result;
}

/* Eight targets in an order that no predictor knows. */
#define INDIRECT_CALLS 4096

typedef uint32_t step(uint32_t);
static uint32_t step0(uint32_t x) { return x + 1; }
static uint32_t step1(uint32_t x) { return x ^ 0x5555; }
static uint32_t step2(uint32_t x) { return x * 3; }
static uint32_t step3(uint32_t x) { return x - 7; }
static uint32_t step4(uint32_t x) { return x << 1; }
static uint32_t step5(uint32_t x) { return x >> 1; }
static uint32_t step6(uint32_t x) { return ~x; }
static uint32_t step7(uint32_t x) { return x + 0x1234; }

static uint64_t indirect(uint64_t n)
{
    static step *volatile const table[8] = {
        step0, step1, step2, step3, step4, step5, step6, step7,
    };
    uint32_t value = 0;
    while (n--) {
        uint32_t seed = 88172645;
        value = 1;
        for (int i = 0; i < INDIRECT_CALLS; i++)
            value = table[next_random(&seed) >> 29](value);
    }
    return value;
}

/* Two processes share the work. Each has a processor of its own if there are
 * several. */
#define SIEVES 64

static cpu_set_t all_processors;

void note_processors(void)
{
    if (sched_getaffinity(0, sizeof all_processors, &all_processors) != 0)
        fail("sched_getaffinity");
}

/* Binds the calling process to the processor with this number among all. */
static void bind_to(int number)
{
    cpu_set_t one;
    int seen = 0;
    CPU_ZERO(&one);
    for (int cpu = 0; cpu < CPU_SETSIZE; cpu++)
        if (CPU_ISSET(cpu, &all_processors) && seen++ == number)
            CPU_SET(cpu, &one);
    if (sched_setaffinity(0, sizeof one, &one) != 0)
        fail("sched_setaffinity");
}

static uint64_t parallel(uint64_t n)
{
    while (n--) {
        int children[2];
        for (int i = 0; i < 2; i++) {
            children[i] = fork();
            if (children[i] == 0) {
                bind_to(i % processors);
                _exit(sieve(SIEVES / 2) == 0);
            }
        }
        for (int i = 0; i < 2; i++)
            wait_for(children[i]);
    }
    return SIEVES;
}

const struct row compute_rows[] = {
    { "sieve", sieve, 1, 0, 0 },
    { "sort", sort, 1, 0, 0 },
    { "crc", crc, 1, 0, 0 },
    { "calls", calls, 1, 0, 0 },
    { "indirect", indirect, INDIRECT_CALLS, 0, 0 },
    { "parallel", parallel, 1, 0, 0 },
    { 0, 0, 0, 0, 0 },
};
