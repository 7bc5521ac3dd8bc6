/* The cost of the kernel: the least that a WebSocket server can do for the workloads, in C.
 *
 * One epoll instance, one system call for each message received and each message sent, and no
 * check that the benchmark does not need. `floor --join` writes publications that arrived in one
 * segment to each subscriber with one call. For the benchmark only: it trusts all input.
 *
 *   /test/  the demo   /subscribe/ and /publish/  fan-out   /echo/  echo
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { FILES = 65536, BUFFER = 1 << 16, PUSHES = 10 };
enum { TEXT = 0x81, CLOSE = 0x88, PING = 0x89, PONG = 0x8A };
static const int64_t SECOND = 1000000000, PUSH_INTERVAL = 500000000, PING_INTERVAL = 25000000000;

/* A connection; its index is the descriptor. Holds incomplete frames and unsent bytes. */
struct peer {
    enum { FREE, ASKING, DEMO, SUBSCRIBER, PUBLISHER, ECHO, CLOSING } role;
    uint8_t pushed;
    uint32_t place; /* Index in `subscribers`. */
    int64_t ping_due;
    uint8_t *unread, *unsent;
    uint32_t unread_size, unsent_size;
};
static struct peer peers[FILES];
static int epoll, subscribers[FILES], subscriber_count;

/* Timers in order of their time: all pushes have the same interval, and so have all pings. */
struct due {
    int64_t at;
    int file;
};
static struct queue {
    struct due *dues;
    uint32_t first, count, room;
} pushes, pings;

static void put(struct queue *queue, int64_t at, int file) {
    if (queue->count == queue->room) {
        uint32_t room = queue->room ? 2 * queue->room : 256;
        struct due *dues = malloc(room * sizeof *dues);
        for (uint32_t i = 0; i < queue->count; i++)
            dues[i] = queue->dues[(queue->first + i) % queue->room];
        free(queue->dues);
        *queue = (struct queue){dues, 0, queue->count, room};
    }
    queue->dues[(queue->first + queue->count++) % queue->room] = (struct due){at, file};
}

static int64_t now(void) {
    struct timespec at;
    clock_gettime(CLOCK_MONOTONIC, &at);
    return at.tv_sec * SECOND + at.tv_nsec;
}

static void watch(int file, int operation, uint32_t events) {
    struct epoll_event event = {events, {.fd = file}};
    epoll_ctl(epoll, operation, file, &event);
}

static void drop(int file) {
    struct peer *peer = &peers[file];
    if (peer->role == SUBSCRIBER) {
        int last = subscribers[--subscriber_count];
        subscribers[peer->place] = last;
        peers[last].place = peer->place;
    }
    free(peer->unread);
    free(peer->unsent);
    *peer = (struct peer){0};
    close(file);
}

static void send_all(int file, const void *bytes, size_t size) {
    struct peer *peer = &peers[file];
    ssize_t sent = 0;
    if (!peer->unsent_size) {
        sent = send(file, bytes, size, MSG_NOSIGNAL);
        if (sent == (ssize_t)size) return;
        if (sent < 0) {
            if (errno != EAGAIN) return; /* Reading reports a broken connection. */
            sent = 0;
        }
        watch(file, EPOLL_CTL_MOD, EPOLLIN | EPOLLOUT);
    }
    size_t rest = size - sent;
    peer->unsent = realloc(peer->unsent, peer->unsent_size + rest);
    memcpy(peer->unsent + peer->unsent_size, (const uint8_t *)bytes + sent, rest);
    peer->unsent_size += rest;
}

static void flush(int file) {
    struct peer *peer = &peers[file];
    uint8_t *bytes = peer->unsent;
    uint32_t size = peer->unsent_size;
    peer->unsent = NULL;
    peer->unsent_size = 0;
    watch(file, EPOLL_CTL_MOD, EPOLLIN);
    send_all(file, bytes, size);
    free(bytes);
}

/* Write a frame's header and payload, and return their size. */
static size_t frame(uint8_t *out, uint8_t opcode, const uint8_t *payload, size_t size) {
    size_t head = size < 126 ? 2 : 4;
    out[0] = opcode;
    out[1] = size < 126 ? size : 126;
    if (head == 4) {
        out[2] = size >> 8;
        out[3] = size;
    }
    memcpy(out + head, payload, size);
    return head + size;
}

static void send_frame(int file, uint8_t opcode, const void *payload, size_t size) {
    uint8_t bytes[BUFFER + 4];
    send_all(file, bytes, frame(bytes, opcode, payload, size));
}

static uint32_t rotate(uint32_t value, int bits) { return value << bits | value >> (32 - bits); }

/* SHA-1 of 60 bytes, the length of a key and the GUID of RFC 6455 §1.3: two blocks. */
static void digest(const char *text, uint8_t *out) {
    uint32_t state[5] = {0x67452301, 0xEFCDAB89, 0x98BADCFE, 0x10325476, 0xC3D2E1F0}, w[80];
    uint8_t blocks[128] = {0};
    memcpy(blocks, text, 60);
    blocks[60] = 0x80;
    blocks[126] = 60 * 8 >> 8;
    blocks[127] = (uint8_t)(60 * 8);
    for (const uint8_t *block = blocks; block < blocks + 128; block += 64) {
        for (int i = 0; i < 16; i++) {
            memcpy(&w[i], block + 4 * i, 4);
            w[i] = ntohl(w[i]);
        }
        for (int i = 16; i < 80; i++) w[i] = rotate(w[i - 3] ^ w[i - 8] ^ w[i - 14] ^ w[i - 16], 1);
        uint32_t a = state[0], b = state[1], c = state[2], d = state[3], e = state[4];
        for (int i = 0; i < 80; i++) {
            uint32_t mix = i < 20   ? (d ^ (b & (c ^ d))) + 0x5A827999
                           : i < 40 ? (b ^ c ^ d) + 0x6ED9EBA1
                           : i < 60 ? ((b & c) | (d & (b | c))) + 0x8F1BBCDC
                                    : (b ^ c ^ d) + 0xCA62C1D6;
            mix += rotate(a, 5) + e + w[i];
            e = d, d = c, c = rotate(b, 30), b = a, a = mix;
        }
        state[0] += a, state[1] += b, state[2] += c, state[3] += d, state[4] += e;
    }
    for (int i = 0; i < 5; i++) {
        uint32_t word = htonl(state[i]);
        memcpy(out + 4 * i, &word, 4);
    }
}

static void greet(int file, const char *request) {
    static const char letters[] =
        "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    static const struct {
        const char *line;
        int role;
    } routes[] = {{"GET /test/ ", DEMO},
                  {"GET /subscribe/ ", SUBSCRIBER},
                  {"GET /publish/ ", PUBLISHER},
                  {"GET /echo/ ", ECHO}};
    const char *key = strcasestr(request, "\r\nSec-WebSocket-Key: ");
    int role = FREE;
    for (size_t i = 0; i < sizeof routes / sizeof *routes; i++)
        if (!strncmp(request, routes[i].line, strlen(routes[i].line))) role = routes[i].role;
    if (!key || role == FREE) return drop(file);
    char text[61], accept[29] = {0}, answer[200];
    uint8_t sum[21] = {0};
    memcpy(text, key + 21, 24);
    memcpy(text + 24, "258EAFA5-E914-47DA-95CA-C5AB0DC85B11", 37);
    digest(text, sum);
    for (int i = 0; i < 7; i++) {
        uint32_t bits = sum[3 * i] << 16 | sum[3 * i + 1] << 8 | (i < 6 ? sum[3 * i + 2] : 0);
        for (int j = 0; j < 4; j++) accept[4 * i + j] = letters[bits >> (18 - 6 * j) & 63];
    }
    accept[27] = '=';
    int size = sprintf(answer,
                       "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n"
                       "Connection: Upgrade\r\nSec-WebSocket-Accept: %s\r\n\r\n",
                       accept);
    struct peer *peer = &peers[file];
    peer->role = role;
    peer->ping_due = now() + PING_INTERVAL;
    put(&pings, peer->ping_due, file);
    if (role == SUBSCRIBER) {
        peer->place = subscriber_count;
        subscribers[subscriber_count++] = file;
    }
    send_all(file, answer, size);
}

static void to_all(const uint8_t *bytes, size_t size) {
    for (int i = 0; i < subscriber_count; i++) send_all(subscribers[i], bytes, size);
}

static void push(int file, int64_t due) {
    if (peers[file].role != DEMO) return;
    if (peers[file].pushed == PUSHES) {
        static const uint8_t code[2] = {1000 >> 8, 1000 & 255};
        peers[file].role = CLOSING;
        send_frame(file, CLOSE, code, 2);
        shutdown(file, SHUT_WR);
        return;
    }
    char text[32];
    send_frame(file, TEXT, text, sprintf(text, "service message: %d", peers[file].pushed++));
    put(&pushes, due + PUSH_INTERVAL, file);
}

/* Handle all complete frames, and return the number of bytes consumed. */
static size_t take(int file, uint8_t *bytes, size_t size, int join) {
    static uint8_t joined[2 * BUFFER];
    size_t taken = 0, joined_size = 0;
    while (peers[file].role != FREE && peers[file].role != CLOSING) {
        uint8_t *at = bytes + taken;
        size_t left = size - taken, head = 6, length;
        if (left < head) break;
        length = at[1] & 0x7F;
        if (length == 126) {
            length = at[2] << 8 | at[3];
            head = 8;
        }
        if (left < head + length) break;
        uint8_t *payload = at + head, *mask = payload - 4;
        for (size_t i = 0; i < length; i++) payload[i] ^= mask[i & 3];
        taken += head + length;
        if (at[0] == CLOSE) {
            peers[file].role = peers[file].role == SUBSCRIBER ? SUBSCRIBER : CLOSING;
            send_frame(file, CLOSE, payload, length);
            drop(file);
        } else if (at[0] == PING) {
            send_frame(file, PONG, payload, length);
        } else if (at[0] != TEXT) {
            continue;
        } else if (peers[file].role == ECHO) {
            send_frame(file, TEXT, payload, length);
        } else if (peers[file].role == DEMO) {
            push(file, now());
        } else if (peers[file].role == PUBLISHER) {
            joined_size += frame(joined + joined_size, TEXT, payload, length);
            if (!join) {
                to_all(joined, joined_size);
                joined_size = 0;
            }
        }
    }
    if (joined_size) to_all(joined, joined_size);
    return taken;
}

static void read_from(int file, int join) {
    static uint8_t buffer[BUFFER + 1];
    struct peer *peer = &peers[file];
    uint32_t kept = peer->unread_size;
    if (kept) memcpy(buffer, peer->unread, kept);
    free(peer->unread);
    peer->unread = NULL;
    peer->unread_size = 0;
    ssize_t count = recv(file, buffer + kept, BUFFER - kept, 0);
    if (count <= 0 && !(count < 0 && errno == EAGAIN)) return drop(file);
    size_t size = kept + (count > 0 ? count : 0), taken = 0;
    if (peer->role == ASKING) {
        buffer[size] = 0;
        char *end = strstr((char *)buffer, "\r\n\r\n");
        if (end) {
            greet(file, (char *)buffer);
            taken = end + 4 - (char *)buffer;
        }
    }
    if (peer->role != ASKING) taken += take(file, buffer + taken, size - taken, join);
    if (peer->role != FREE && taken < size) {
        peer->unread_size = size - taken;
        peer->unread = malloc(peer->unread_size);
        memcpy(peer->unread, buffer + taken, peer->unread_size);
    }
}

static void ping(int file, int64_t due) {
    /* A timer of an earlier connection with the same descriptor is ignored. */
    if (peers[file].role <= ASKING || peers[file].ping_due != due) return;
    send_frame(file, PING, "", 0);
    peers[file].ping_due = due + PING_INTERVAL;
    put(&pings, peers[file].ping_due, file);
}

/* Run all timers that are due, and return the time until the next. */
static int64_t attend(struct queue *queue, void (*act)(int, int64_t)) {
    while (queue->count) {
        struct due due = queue->dues[queue->first % queue->room];
        int64_t wait = due.at - now();
        if (wait > 0) return wait;
        queue->first = (queue->first + 1) % queue->room;
        queue->count--;
        act(due.file, due.at);
    }
    return 3600 * SECOND;
}

int main(int count, char **arguments) {
    int join = count > 1 && !strcmp(arguments[1], "--join"), on = 1;
    struct rlimit files;
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max < FILES ? files.rlim_max : FILES;
    setrlimit(RLIMIT_NOFILE, &files);
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    struct sockaddr_in name = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof name;
    if (bind(listener, (struct sockaddr *)&name, size) || listen(listener, 4096)) return 1;
    getsockname(listener, (struct sockaddr *)&name, &size);
    epoll = epoll_create1(0);
    watch(listener, EPOLL_CTL_ADD, EPOLLIN);
    printf("listening on %d\n", ntohs(name.sin_port));
    fflush(stdout);
    for (;;) {
        int64_t wait = attend(&pushes, push), ping_wait = attend(&pings, ping);
        if (ping_wait < wait) wait = ping_wait;
        struct timespec longest = {wait / SECOND, wait % SECOND};
        struct epoll_event events[512];
        int ready = epoll_pwait2(epoll, events, 512, &longest, NULL);
        for (int i = 0; i < ready; i++) {
            int file = events[i].data.fd;
            if (file != listener) {
                if (events[i].events & EPOLLOUT) flush(file);
                if (events[i].events & ~EPOLLOUT && peers[file].role != FREE) read_from(file, join);
                continue;
            }
            while ((file = accept4(listener, NULL, NULL, SOCK_NONBLOCK)) >= 0) {
                setsockopt(file, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
                peers[file].role = ASKING;
                watch(file, EPOLL_CTL_ADD, EPOLLIN);
            }
        }
    }
}
