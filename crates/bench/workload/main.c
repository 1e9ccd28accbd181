/* The benchmark's workload: the same program natively and in every guest.
 *
 *     bench PROGRAMS WORK MILLISECONDS CPUS [ROW]...
 *
 * Each row is repeated for about the given time, on one processor but for the
 * row `parallel`, which may use CPUS. Lines on standard output:
 *
 *     bench: begin CLOCK
 *     bench: row NAME UNITS NANOSECONDS CHECK CLOCK
 *     bench: end CLOCK
 *
 * CLOCK is the monotonic clock in nanoseconds when the line was written, so
 * that whoever reads it can hold it against another clock. CHECK is what the
 * row has computed. */
#define _GNU_SOURCE
#include <errno.h>
#include <inttypes.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>

#include "rows.h"

const char *programs_dir, *work_dir;
int processors;

void fail(const char *what)
{
    printf("bench: fail %s: %s\n", what, strerror(errno));
    exit(1);
}

char *path_in(const char *dir, const char *name)
{
    char *path;
    if (asprintf(&path, "%s/%s", dir, name) < 0)
        fail("memory");
    return path;
}

uint32_t next_random(uint32_t *state)
{
    uint32_t x = *state;
    x ^= x << 13;
    x ^= x >> 17;
    x ^= x << 5;
    return *state = x;
}

uint64_t check_of(const void *bytes, uint64_t length)
{
    const unsigned char *at = bytes;
    uint64_t hash = 0xcbf29ce484222325;
    while (length--)
        hash = (hash ^ *at++) * 0x100000001b3;
    return hash;
}

void wait_for(int child)
{
    int status;
    if (child < 0)
        fail("fork");
    if (waitpid(child, &status, 0) != child)
        fail("waitpid");
    if (status != 0) {
        printf("bench: fail a child ended with status %#x\n", status);
        exit(1);
    }
}

static uint64_t now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

/* Repeats until the last repetition alone took the time that was asked for.
 * What came before has warmed up caches and translators, so the first never
 * counts. */
static void measure(const struct row *row, uint64_t target)
{
    uint64_t n = 1, took, check;
    if (row->prepare)
        row->prepare();
    for (int warm = 0;; warm = 1) {
        uint64_t start = now();
        check = row->run(n);
        took = now() - start;
        if (warm && took >= target)
            break;
        uint64_t more = target + target / 8;
        uint64_t next = took ? (uint64_t)((double)n * more / took) + 1 : n * 64;
        n = next > n * 64 ? n * 64 : next;
    }
    if (row->finish)
        row->finish();
    printf("bench: row %s %" PRIu64 " %" PRIu64 " %016" PRIx64 " %" PRIu64 "\n",
           row->name, n * row->units, took, check, now());
    fflush(stdout);
}

static int wanted(const char *name, int count, char **names)
{
    for (int i = 0; i < count; i++)
        if (strcmp(name, names[i]) == 0)
            return 1;
    return count == 0;
}

int main(int argc, char **argv)
{
    static const struct row *const groups[] = {
        compute_rows, floating_rows, memory_rows, system_rows, program_rows,
    };
    cpu_set_t one;
    /* What the row `exec` starts. */
    if (argc == 2 && strcmp(argv[1], "nothing") == 0)
        return 0;
    if (argc < 5) {
        fprintf(stderr, "bench: bench PROGRAMS WORK MILLISECONDS CPUS [ROW]...\n");
        return 2;
    }
    programs_dir = argv[1];
    work_dir = argv[2];
    uint64_t target = strtoull(argv[3], NULL, 10) * 1000000;
    processors = atoi(argv[4]);
    note_processors();
    /* As in a guest with one processor. */
    CPU_ZERO(&one);
    CPU_SET(sched_getcpu(), &one);
    if (sched_setaffinity(0, sizeof one, &one) != 0)
        fail("sched_setaffinity");
    printf("bench: begin %" PRIu64 "\n", now());
    fflush(stdout);
    for (unsigned group = 0; group < sizeof groups / sizeof *groups; group++)
        for (const struct row *row = groups[group]; row->name; row++)
            if (wanted(row->name, argc - 5, argv + 5))
                measure(row, target);
    printf("bench: end %" PRIu64 "\n", now());
    return 0;
}
