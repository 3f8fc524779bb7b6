/*
 * The yardstick of the benchmark: the least that a program can do and still be an SMTP receiver.
 *
 * It answers what mailrecv answers, at the same points, and throws the mail away. What it costs is what the machine
 * costs: process start, loopback, the dialogue's round trips. With `-w FILE` it appends each message to FILE and calls
 * fsync before the final 250, which adds what the disk costs. It checks no syntax, knows no rules, undoes nothing.
 * Other arguments are ignored, so that `--mailrecv` can be pointed at it, to see how far two equals differ.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

static void take_message(const char *path);
static size_t next_line(void);
static void fill(void);
static void consume(size_t count);
static int verb_is(const char *verb);
static void send_all(int file, const char *bytes, size_t count);
static void reply(const char *text);

static char input[65536];
static size_t filled;

int main(int argc, char **argv)
{
    const char *path = argc == 3 && strcmp(argv[1], "-w") == 0 ? argv[2] : NULL;

    reply("220 localhost ESMTP (RFC 821/822) do-nothing\r\n");
    for (;;) {
        size_t length = next_line();

        if (verb_is("DATA")) {
            consume(length);
            reply("354 End data with <CR><LF>.<CR><LF>\r\n");
            take_message(path);
            reply("250 2.0.0 Message accepted for delivery, id=0123456789ABCDEF\r\n");
            continue;
        }
        if (verb_is("EHLO"))
            reply("250-localhost Hello\r\n250-PIPELINING\r\n250-SIZE 60000000\r\n250-8BITMIME\r\n"
                  "250-ENHANCEDSTATUSCODES\r\n250 HELP\r\n");
        else if (verb_is("MAIL"))
            reply("250 2.1.0 Sender ok\r\n");
        else if (verb_is("RCPT"))
            reply("250 2.1.5 Recipient ok\r\n");
        else if (verb_is("QUIT")) {
            reply("221 2.0.0 localhost closing connection\r\n");
            _exit(0);
        } else
            reply("500 5.5.2 Unknown command\r\n");
        consume(length);
    }
}

/* Reads up to CRLF.CRLF. The CRLF before an empty message's dot is the one that ended DATA, hence the two bytes put
 * back in front; `skip` keeps them out of the file. The last four bytes of each piece wait for the next one, because
 * they may begin the end. The bytes are written as they came, dots and CRs included. */
static void take_message(const char *path)
{
    static const char end[] = "\r\n.\r\n";
    size_t skip = 2;
    int file = -1;

    if (path != NULL && (file = open(path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600)) < 0)
        _exit(73);
    memmove(input + 2, input, filled);
    memcpy(input, end, 2);
    filled += 2;
    for (;;) {
        char *found = memmem(input, filled, end, 5);
        size_t done = found != NULL ? (size_t)(found - input) + 2 : filled > 4 ? filled - 4 : 0;

        if (file >= 0 && done > skip)
            send_all(file, input + skip, done - skip);
        skip = done > skip ? 0 : skip - done;
        if (found != NULL) {
            consume(done + 3);
            break;
        }
        consume(done);
        fill();
    }
    if (file >= 0 && (fsync(file) != 0 || close(file) != 0))
        _exit(74);
}

static size_t next_line(void)
{
    for (;;) {
        char *newline = memchr(input, '\n', filled);

        if (newline != NULL)
            return (size_t)(newline - input) + 1;
        if (filled == sizeof input - 2)
            _exit(65);
        fill();
    }
}

/* Leaves room for the two bytes that take_message puts in front. */
static void fill(void)
{
    ssize_t count = read(0, input + filled, sizeof input - 2 - filled);

    if (count <= 0)
        _exit(0);
    filled += (size_t)count;
}

static void consume(size_t count)
{
    filled -= count;
    memmove(input, input + count, filled);
}

static int verb_is(const char *verb)
{
    return filled >= 4 && strncasecmp(input, verb, 4) == 0;
}

static void send_all(int file, const char *bytes, size_t count)
{
    while (count > 0) {
        ssize_t written = write(file, bytes, count);

        if (written <= 0)
            _exit(74);
        bytes += written;
        count -= (size_t)written;
    }
}

static void reply(const char *text)
{
    send_all(1, text, strlen(text));
}
