/*
 * The other end for the project's byte channel, as somebody writes it who has Xen's library.
 *
 *     vchan-peer serve|connect DOMID PATH stream|packet|twice|endless|wait [TO-SERVER TO-CLIENT]
 *
 * Does the same as the example channel-peer of the crate stubdom, by libxenvchan: 300000 bytes one way and then the other,
 * or 300 packets that come back inverted, "twice" with two clients one after the other. "endless": from server to client
 * until one has gone; "wait" reads until the other end has gone. A client waits for its server. Says "ready" when it is
 * there and "done" when all was as it should be.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <libxenvchan.h>

enum { BYTES = 300000, PACKETS = 300, LONGEST = 3001 };

static void fail(const char *what, long at)
{
    fprintf(stderr, "vchan-peer: %s at %ld: %s\n", what, at, strerror(errno));
    exit(1);
}

static void pattern(unsigned char *to, size_t direction, size_t from, size_t len)
{
    for (size_t i = from; i < from + len; i++)
        to[i - from] = (unsigned char)(i * 131 + direction * 7 + (i >> 8));
}

static void stream(struct libxenvchan *channel, int server)
{
    unsigned char wanted[LONGEST], got[LONGEST];

    for (int direction = 0; direction < 2; direction++)
        for (size_t at = 0; at < BYTES;) {
            size_t len = 1 + at % LONGEST;

            if (len > BYTES - at)
                len = BYTES - at;
            pattern(wanted, (size_t)direction, at, len);
            if (server == direction) {
                if (libxenvchan_write(channel, wanted, len) != (int)len)
                    fail("write", (long)at);
                at += len;
            } else {
                int n = libxenvchan_read(channel, got, len);

                if (n <= 0)
                    fail("read", (long)at);
                if (memcmp(wanted, got, (size_t)n))
                    fail("wrong bytes", (long)at);
                at += (size_t)n;
            }
        }
}

static void packets(struct libxenvchan *channel, int server)
{
    unsigned char there[LONGEST], back[LONGEST], got[LONGEST];

    for (size_t i = 0; i < PACKETS; i++) {
        size_t len = 1 + i * 37 % 1000;

        pattern(there, 0, i, len);
        for (size_t j = 0; j < len; j++)
            back[j] = (unsigned char)~there[j];
        if (!server && libxenvchan_send(channel, there, len) != (int)len)
            fail("send", (long)i);
        if (libxenvchan_recv(channel, got, len) != (int)len)
            fail("recv", (long)i);
        if (server && libxenvchan_send(channel, back, len) != (int)len)
            fail("send", (long)i);
        if (memcmp(server ? there : back, got, len))
            fail("wrong packet", (long)i);
    }
}

static void endless(struct libxenvchan *channel, int server)
{
    unsigned char wanted[LONGEST], got[LONGEST];

    for (size_t at = 0;;) {
        int n;

        pattern(wanted, 1, at, LONGEST);
        n = server ? libxenvchan_write(channel, wanted, LONGEST) : libxenvchan_read(channel, got, LONGEST);
        if (n <= 0)
            return;
        if (!server && memcmp(wanted, got, (size_t)n))
            fail("wrong bytes", (long)at);
        if (at < BYTES && at + (size_t)n >= BYTES) {
            puts("flows");
            fflush(stdout);
        }
        at += (size_t)n;
    }
}

/* The library has no way to wait for a server but to try again. */
static struct libxenvchan *when_there(int domid, const char *path)
{
    struct libxenvchan *channel;

    for (int left = 600; !(channel = libxenvchan_client_init(NULL, domid, path)) && left; left--)
        usleep(100000);
    return channel;
}

int main(int argc, char **argv)
{
    struct libxenvchan *channel;
    unsigned char byte;

    if (argc != 5 && argc != 7) {
        fprintf(stderr, "usage: vchan-peer serve|connect DOMID PATH MODE [TO-SERVER TO-CLIENT]\n");
        return 2;
    }
    int server = !strcmp(argv[1], "serve");
    int wait = !strcmp(argv[4], "wait");
    int twice = !strcmp(argv[4], "twice");
    int domid = atoi(argv[2]);

    if (server)
        channel = libxenvchan_server_init(NULL, domid, argv[3], argc == 7 ? strtoul(argv[5], NULL, 10) : 1024,
                                          argc == 7 ? strtoul(argv[6], NULL, 10) : 2048);
    else
        channel = when_there(domid, argv[3]);
    if (!channel)
        fail("init", 0);
    channel->blocking = 1;
    channel->server_persist = server && twice;
    puts("ready");
    fflush(stdout);
    if (!strcmp(argv[4], "stream"))
        stream(channel, server);
    else if (!strcmp(argv[4], "packet") || twice)
        packets(channel, server);
    else if (!strcmp(argv[4], "endless"))
        endless(channel, server);
    if (server && twice) {
        packets(channel, server);
        channel->server_persist = 0;
    }
    /* The client goes first. */
    if ((wait || server) && (libxenvchan_read(channel, &byte, 1) != -1 || libxenvchan_is_open(channel)))
        fail("still open", 0);
    libxenvchan_close(channel);
    puts("done");
    return 0;
}
