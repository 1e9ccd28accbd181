/* What a shell in a guest cannot do: sockets to the host, requests to disks and
 * network cards. Built statically by the tests that need it. */

#include <fcntl.h>
#include <linux/ethtool.h>
#include <linux/fs.h>
#include <linux/sockios.h>
#include <linux/vm_sockets.h>
#include <net/if.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

static void must(int fine, const char *what)
{
    if (!fine) {
        perror(what);
        exit(1);
    }
}

static struct sockaddr_vm address(unsigned cid, const char *port)
{
    struct sockaddr_vm address = { .svm_family = AF_VSOCK, .svm_cid = cid };
    address.svm_port = (unsigned)atoi(port);
    return address;
}

/* Takes one connection and sends back all that comes. */
static void vsock_serve(char **words)
{
    int listener = socket(AF_VSOCK, SOCK_STREAM, 0);
    must(listener >= 0, "socket");
    struct sockaddr_vm own = address(VMADDR_CID_ANY, words[0]);
    must(bind(listener, (struct sockaddr *)&own, sizeof own) == 0, "bind");
    must(listen(listener, 1) == 0, "listen");
    puts("vsock: listening");
    fflush(stdout);
    int peer = accept(listener, NULL, NULL);
    must(peer >= 0, "accept");
    char buffer[65536];
    long total = 0;
    for (ssize_t count; (count = read(peer, buffer, sizeof buffer)) > 0; total += count)
        for (ssize_t done = 0; done < count;) {
            ssize_t written = write(peer, buffer + done, (size_t)(count - done));
            must(written > 0, "write");
            done += written;
        }
    printf("vsock: sent back %ld bytes\n", total);
    close(peer);
}

/* Connects to the host, says a word, and prints the answer. */
static void vsock_connect(char **words)
{
    int peer = socket(AF_VSOCK, SOCK_STREAM, 0);
    must(peer >= 0, "socket");
    struct sockaddr_vm host = address(VMADDR_CID_HOST, words[0]);
    if (connect(peer, (struct sockaddr *)&host, sizeof host) != 0) {
        perror("vsock: not connected");
        exit(2);
    }
    must(write(peer, words[1], strlen(words[1])) > 0, "write");
    must(shutdown(peer, SHUT_WR) == 0, "shutdown");
    char buffer[4096];
    for (ssize_t count; (count = read(peer, buffer, sizeof buffer)) > 0;)
        must(fwrite(buffer, 1, (size_t)count, stdout) == (size_t)count, "print");
    puts("");
}

/* BLKDISCARD or BLKZEROOUT of a range of a disk. */
static void range(unsigned long request, char **words)
{
    int disk = open(words[0], O_WRONLY);
    must(disk >= 0, words[0]);
    uint64_t bytes[2] = { strtoull(words[1], NULL, 0), strtoull(words[2], NULL, 0) };
    must(ioctl(disk, request, bytes) == 0, "ioctl");
    must(fsync(disk) == 0, "fsync");
}

/* What a network card leaves to the other side. */
static void offloads(char **words)
{
    static const struct { const char *name; unsigned command; } all[] = {
        { "rx-checksum", ETHTOOL_GRXCSUM },
        { "tx-checksum", ETHTOOL_GTXCSUM },
        { "segmentation", ETHTOOL_GTSO },
    };
    int any = socket(AF_INET, SOCK_DGRAM, 0);
    must(any >= 0, "socket");
    for (size_t index = 0; index < sizeof all / sizeof *all; index++) {
        struct ethtool_value value = { .cmd = all[index].command };
        struct ifreq request = { .ifr_data = (char *)&value };
        strncpy(request.ifr_name, words[0], IFNAMSIZ - 1);
        must(ioctl(any, SIOCETHTOOL, &request) == 0, "ethtool");
        printf("%s=%u\n", all[index].name, value.data);
    }
}

int main(int count, char **words)
{
    const char *what = count > 2 ? words[1] : "";
    if (strcmp(what, "vsock-serve") == 0)
        vsock_serve(words + 2);
    else if (strcmp(what, "vsock-connect") == 0 && count > 3)
        vsock_connect(words + 2);
    else if (strcmp(what, "discard") == 0 && count > 4)
        range(BLKDISCARD, words + 2);
    else if (strcmp(what, "zero") == 0 && count > 4)
        range(BLKZEROOUT, words + 2);
    else if (strcmp(what, "offloads") == 0)
        offloads(words + 2);
    else
        return 64;
    return 0;
}
