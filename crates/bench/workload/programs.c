/* Rows that are programs of Debian: a compressor, and a shell that starts
 * many processes. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "rows.h"

/* Starts a program of our folder with its output in `output`. */
static void start(const char *output, char *const *arguments)
{
    static char *const environment[] = { NULL };
    int child = fork();
    if (child == 0) {
        int file = open(output, O_WRONLY | O_CREAT | O_TRUNC, 0600);
        if (file < 0 || dup2(file, 1) < 0)
            _exit(126);
        execve(arguments[0], arguments, environment);
        _exit(127);
    }
    wait_for(child);
}

static uint64_t check_of_file(const char *path)
{
    static char bytes[1 << 20];
    int file = open(path, O_RDONLY);
    ssize_t length = read(file, bytes, sizeof bytes);
    if (length < 0)
        fail(path);
    close(file);
    return check_of(bytes, length);
}

/* Text of words that come again and again, as text does. */
#define TEXT_BYTES (192 << 10)

static char *text_path, *output_path;

static void text_prepare(void)
{
    uint32_t seed = 20240229;
    text_path = path_in(work_dir, "text");
    output_path = path_in(work_dir, "output");
    FILE *text = fopen(text_path, "w");
    if (!text)
        fail("fopen");
    for (long written = 0; written < TEXT_BYTES;) {
        uint32_t word = next_random(&seed) % 1000;
        word = word * (next_random(&seed) % 1000) / 1000;
        int length = fprintf(text, "%c%x%c", 'a' + word % 26, word * word, word % 9 ? ' ' : '\n');
        if (length < 0)
            fail("fprintf");
        written += length;
    }
    if (fclose(text) != 0)
        fail("fclose");
}

static uint64_t compress(uint64_t n)
{
    char *loader = path_in(programs_dir, "ld.so");
    char *xz = path_in(programs_dir, "xz");
    char *arguments[] = {
        loader, "--library-path", (char *)programs_dir, xz, "-3", "-T1", "--stdout", text_path, NULL,
    };
    while (n--)
        start(output_path, arguments);
    free(loader);
    free(xz);
    return check_of_file(output_path);
}

static void text_finish(void)
{
    unlink(text_path);
    unlink(output_path);
}

static void shell_prepare(void) { output_path = path_in(work_dir, "output"); }

static uint64_t shell(uint64_t n)
{
    char *busybox = path_in(programs_dir, "busybox");
    char *script = path_in(programs_dir, "script.sh");
    char *arguments[] = { busybox, "sh", script, busybox, NULL };
    while (n--)
        start(output_path, arguments);
    free(busybox);
    free(script);
    return check_of_file(output_path);
}

static void shell_finish(void) { unlink(output_path); }

const struct row program_rows[] = {
    { "compress", compress, 1, text_prepare, text_finish },
    { "shell", shell, 1, shell_prepare, shell_finish },
    { 0, 0, 0, 0, 0 },
};
