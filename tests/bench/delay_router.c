/* Carries IP packets between TUN devices, late and at a limited rate.
 *
 *   delay_router DELAY_US BYTES_PER_SECOND FD...
 *
 * Device i has the address A.B.C.(i + 1). A packet waits for its sender's link to be free, then for
 * the delay, then for its receiver's link; 0 bytes a second is no limit.
 */
#include <errno.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { DEVICES = 16, SLOTS = 8192, PACKET = 2048 };

struct packet {
    int64_t due;
    int length;
    unsigned char data[PACKET];
};

struct link {
    int fd;
    int64_t up_free, down_free;
    unsigned head, tail;
    struct packet *slots;
};

static int64_t now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static int64_t later(int64_t a, int64_t b) { return a > b ? a : b; }

int main(int count, char **words) {
    int64_t delay = atoll(words[1]) * 1000;
    double rate = atof(words[2]);
    int devices = count - 3;
    static struct link links[DEVICES];
    struct pollfd waits[DEVICES];
    if (devices > DEVICES) return 2;
    for (int i = 0; i < devices; i++) {
        links[i].fd = waits[i].fd = atoi(words[3 + i]);
        links[i].slots = calloc(SLOTS, sizeof(struct packet));
        waits[i].events = POLLIN;
    }
    for (;;) {
        int64_t next = INT64_MAX, time = now();
        for (int i = 0; i < devices; i++) {
            struct link *to = &links[i];
            while (to->head != to->tail && to->slots[to->head % SLOTS].due <= time) {
                struct packet *p = &to->slots[to->head++ % SLOTS];
                if (write(to->fd, p->data, p->length) < 0 && errno != EIO) perror("write");
            }
            if (to->head != to->tail && to->slots[to->head % SLOTS].due < next)
                next = to->slots[to->head % SLOTS].due;
        }
        struct timespec left = {0, 0};
        if (next != INT64_MAX && next > (time = now())) {
            left.tv_sec = (next - time) / 1000000000;
            left.tv_nsec = (next - time) % 1000000000;
        }
        if (ppoll(waits, devices, next == INT64_MAX ? NULL : &left, NULL) <= 0) continue;
        for (int i = 0; i < devices; i++) {
            if (!(waits[i].revents & POLLIN)) continue;
            unsigned char data[PACKET];
            int length = read(links[i].fd, data, sizeof data);
            int other = length >= 20 ? data[19] - 1 : -1;
            if (other < 0 || other >= devices || data[0] >> 4 != 4) continue;
            struct link *from = &links[i], *to = &links[other];
            if (to->tail - to->head == SLOTS) continue; /* a full queue drops */
            int64_t takes = rate > 0 ? (int64_t)(length / rate * 1e9) : 0;
            struct packet *p = &to->slots[to->tail++ % SLOTS];
            from->up_free = later(now(), from->up_free) + takes;
            to->down_free = later(from->up_free + delay, to->down_free) + takes;
            p->due = to->down_free;
            p->length = length;
            memcpy(p->data, data, length);
        }
    }
}
