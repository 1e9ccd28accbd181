/* What the rows of the benchmark share. */
#ifndef ROWS_H
#define ROWS_H

#include <stdint.h>

/* One row. `run` does its work `n` times and returns a value that is the same
 * on every machine, or ends the program by `fail`; `units` is how many of the
 * things that the report counts (calls, pages, MiB) one time makes. */
struct row {
    const char *name;
    uint64_t (*run)(uint64_t n);
    uint64_t units;
    void (*prepare)(void);
    void (*finish)(void);
};

extern const struct row compute_rows[], floating_rows[], memory_rows[], system_rows[], program_rows[];

/* The folder of the programs that rows start, and one for files they write. */
extern const char *programs_dir, *work_dir;

/* How many processors the row `parallel` may use. */
extern int processors;

/* Remembers which there are, before the program is bound to one of them. */
void note_processors(void);

/* Says what went wrong, with errno, and exits. */
void fail(const char *what) __attribute__((noreturn));

/* `dir`/`name`, in memory that stays. */
char *path_in(const char *dir, const char *name);

/* Pseudo-random numbers: the same everywhere. */
uint32_t next_random(uint32_t *state);

/* Mixes `length` bytes into a check value (FNV-1a). */
uint64_t check_of(const void *bytes, uint64_t length);

/* Waits for a child, which must end with status 0. */
void wait_for(int child);

#endif
