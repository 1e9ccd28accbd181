/* Rows of the kernel: system calls, pipes, processes. */
#define _GNU_SOURCE
#include <stdlib.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "rows.h"

#define CALLS 1000

static uint64_t system_call(uint64_t n)
{
    long parent = getppid(), found = parent;
    for (n *= CALLS; n--;)
        found = syscall(SYS_getppid);
    return found == parent;
}

static int ends[2];

static void pipe_prepare(void)
{
    if (pipe(ends) != 0)
        fail("pipe");
}

static void pipe_finish(void)
{
    close(ends[0]);
    close(ends[1]);
}

#define PIPE_BYTES 100

static uint64_t pipe_within(uint64_t n)
{
    char byte = 'x';
    for (n *= PIPE_BYTES; n--;)
        if (write(ends[1], &byte, 1) != 1 || read(ends[0], &byte, 1) != 1)
            fail("pipe");
    return byte;
}

/* A byte to another process and back: two switches. */
#define ROUND_TRIPS 50

static int there[2], back[2], partner;

static void switch_prepare(void)
{
    char byte;
    if (pipe(there) != 0 || pipe(back) != 0)
        fail("pipe");
    partner = fork();
    if (partner != 0) {
        close(there[0]);
        close(back[1]);
        return;
    }
    close(there[1]);
    close(back[0]);
    while (read(there[0], &byte, 1) == 1)
        if (write(back[1], &byte, 1) != 1)
            _exit(1);
    _exit(0);
}

static uint64_t switching(uint64_t n)
{
    char byte = 'x';
    for (n *= ROUND_TRIPS; n--;)
        if (write(there[1], &byte, 1) != 1 || read(back[0], &byte, 1) != 1)
            fail("pipe");
    return byte;
}

static void switch_finish(void)
{
    close(there[1]);
    close(back[0]);
    wait_for(partner);
}

static uint64_t fork_exit(uint64_t n)
{
    while (n--) {
        int child = fork();
        if (child == 0)
            _exit(0);
        wait_for(child);
    }
    return 0;
}

static uint64_t fork_exec(uint64_t n)
{
    char *program = path_in(programs_dir, "bench");
    char *arguments[] = { program, "nothing", NULL };
    char *environment[] = { NULL };
    while (n--) {
        int child = fork();
        if (child == 0) {
            execve(program, arguments, environment);
            _exit(127);
        }
        wait_for(child);
    }
    free(program);
    return 0;
}

const struct row system_rows[] = {
    { "syscall", system_call, CALLS, 0, 0 },
    { "pipe", pipe_within, PIPE_BYTES, pipe_prepare, pipe_finish },
    { "switch", switching, ROUND_TRIPS, switch_prepare, switch_finish },
    { "fork", fork_exit, 1, 0, 0 },
    { "exec", fork_exec, 1, 0, 0 },
    { 0, 0, 0, 0, 0 },
};
