/* Rows of memory: latency, bandwidth, page faults, files in the page cache. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "rows.h"

#define PAGE 4096

/* Fresh memory in small pages, whatever the kernel's habits. */
static void *small_pages(size_t length)
{
    void *at = mmap(NULL, length, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (at == MAP_FAILED)
        fail("mmap");
    madvise(at, length, MADV_NOHUGEPAGE);
    return at;
}

/* A walk along pointers through 32 MiB, a cache line each, once around. The
 * order is a full-period congruential sequence: no stride to prefetch. */
#define CHASE_BYTES (32 << 20)
#define LINE 64
#define LINES (CHASE_BYTES / LINE)

static char *lines;

static void **line(uint32_t index) { return (void **)(lines + (size_t)index * LINE); }

static void chase_prepare(void)
{
    lines = small_pages(CHASE_BYTES);
    uint32_t index = 0;
    for (uint32_t i = 0; i < LINES; i++) {
        uint32_t next = (index * 1664525u + 1013904223u) % LINES;
        *line(index) = line(next);
        index = next;
    }
}

static uint64_t chase(uint64_t n)
{
    void **at = line(0);
    while (n--)
        for (uint32_t i = 0; i < LINES; i++)
            at = *at;
    return ((char *)at - lines) / LINE;
}

static void chase_finish(void) { munmap(lines, CHASE_BYTES); }

#define COPY_MIB 8

static char *source, *target;

static void copy_prepare(void)
{
    source = small_pages(COPY_MIB << 20);
    target = small_pages(COPY_MIB << 20);
    memset(source, 0xa5, COPY_MIB << 20);
    memset(target, 0x5a, COPY_MIB << 20);
}

static uint64_t copy(uint64_t n)
{
    while (n--) {
        memcpy(target, source, COPY_MIB << 20);
        __asm__ volatile("" ::: "memory");
    }
    return check_of(target + (COPY_MIB << 20) - PAGE, PAGE);
}

static void copy_finish(void)
{
    munmap(source, COPY_MIB << 20);
    munmap(target, COPY_MIB << 20);
}

/* First touches of anonymous pages; getting and giving back the range is
 * part of it. */
#define FAULTS 1024

static uint64_t fault(uint64_t n)
{
    uint64_t sum = 0;
    while (n--) {
        volatile char *at = small_pages(FAULTS * PAGE);
        sum = 0;
        for (int i = 0; i < FAULTS; i++)
            sum += ++at[i * PAGE];
        munmap((void *)at, FAULTS * PAGE);
    }
    return sum;
}

/* Reading a file that is in memory, 16 KiB at a time. */
#define FILE_MIB 4
#define CHUNK (16 << 10)

static int file = -1;
static char chunk[CHUNK];

static void file_prepare(void)
{
    uint32_t seed = 1;
    file = open(path_in(work_dir, "file"), O_RDWR | O_CREAT | O_TRUNC, 0600);
    if (file < 0)
        fail("open");
    for (int i = 0; i < (FILE_MIB << 20) / CHUNK; i++) {
        for (int j = 0; j < CHUNK; j += 64)
            chunk[j] = next_random(&seed);
        if (write(file, chunk, CHUNK) != CHUNK)
            fail("write");
    }
}

static uint64_t file_read(uint64_t n)
{
    while (n--) {
        if (lseek(file, 0, SEEK_SET) != 0)
            fail("lseek");
        for (int i = 0; i < (FILE_MIB << 20) / CHUNK; i++)
            if (read(file, chunk, CHUNK) != CHUNK)
                fail("read");
    }
    return check_of(chunk, CHUNK);
}

static void file_finish(void)
{
    close(file);
    unlink(path_in(work_dir, "file"));
}

const struct row memory_rows[] = {
    { "chase", chase, LINES, chase_prepare, chase_finish },
    { "memcpy", copy, COPY_MIB, copy_prepare, copy_finish },
    { "fault", fault, FAULTS, 0, 0 },
    { "file", file_read, FILE_MIB, file_prepare, file_finish },
    { 0, 0, 0, 0, 0 },
};
