// Waiting for events without sleeping.
//
// On the loopback interface the sender wakes a receiver that sleeps, within its system call. On a
// virtual machine this can take longer than all else that a small message costs, it depends on how
// long the receiver has slept, and a server whose clients are elsewhere never pays it. So the load
// generator does not sleep while the CPU time of a server is measured.
#pragma once

#include <sys/epoll.h>

#include <cstdint>

#include "report.hpp"

namespace load {

// Nanoseconds that were spent waiting.
inline int64_t waited = 0;

// As epoll_wait, whose time-out is in milliseconds.
inline int await_events(int epoll, epoll_event *events, int size, int timeout, bool sleeps) {
    int count = epoll_wait(epoll, events, size, 0);
    if (count) return count;
    const int64_t begun = now(), end = begun + timeout * 1'000'000LL;
    do count = epoll_wait(epoll, events, size, sleeps ? timeout : 0);
    while (!count && now() < end);
    waited += now() - begun;
    return count;
}

}  // namespace load
