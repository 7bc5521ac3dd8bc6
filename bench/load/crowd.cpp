#include "crowd.hpp"

#include <arpa/inet.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>

#include "poll.hpp"

namespace load {

Crowd::Crowd(Target target) : target(target), _epoll(epoll_create1(EPOLL_CLOEXEC)) {
    rlimit files;
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
}

Crowd::~Crowd() { ::close(_epoll); }

Client &Crowd::add(const std::string &path) {
    clients.push_back(std::make_unique<Client>(*this, uint32_t(clients.size()), path));
    return *clients.back();
}

bool Crowd::arrive() {
    const int64_t begun = now();
    const size_t before = _started;
    return run_until([&] {
        const double due = (now() - begun) / 1e9 * target.rate;
        while (_started < clients.size() && arriving < target.at_once &&
               double(_started - before) <= due) {
            clients[_started++]->connect();
        }
        return _started == clients.size() && !arriving;
    });
}

bool Crowd::run_until(const std::function<bool()> &reached) {
    int64_t last = now();
    uint64_t seen = frames + open + arriving;
    while (!reached()) {
        turn(_started < clients.size() ? 1 : 20, target.sleeps);
        const uint64_t news = frames + open + arriving;
        if (news != seen) {
            seen = news;
            last = now();
        } else if (now() - last > target.patience * 1e9) {
            faults.note("stall", "no progress within the time limit");
            return false;
        }
    }
    return true;
}

void Crowd::run_for(double seconds) {
    const int64_t end = now() + int64_t(seconds * 1e9);
    while (now() < end) turn(10, true);
}

void Crowd::turn(int milliseconds, bool sleeps) {
    epoll_event events[1024];
    const int count = await_events(_epoll, events, 1024, milliseconds, sleeps);
    for (int at = 0; at < count; at++) {
        static_cast<Client *>(events[at].data.ptr)->stir(events[at].events);
    }
}

void Crowd::forget() {
    std::erase_if(clients, [](const auto &one) { return one->stage == Client::Stage::GONE; });
    _started = clients.size();
}

sockaddr_in Crowd::source(uint32_t number) const {
    sockaddr_in own{};
    own.sin_family = AF_INET;
    own.sin_addr.s_addr = htonl(INADDR_LOOPBACK + number % target.sources);
    return own;
}

}  // namespace load
