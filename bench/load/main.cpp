// The load generator: one thread, one epoll instance; every payload is verified. See ../README.md.
#include <sched.h>
#include <signal.h>
#include <unistd.h>

#include "workloads.hpp"

namespace load {

// How many cores this process may use: one if others share it, as in a comparison.
static int cores() {
    cpu_set_t set;
    return sched_getaffinity(0, sizeof set, &set) ? 1 : CPU_COUNT(&set);
}

Options::Options(int count, char **arguments) {
    for (int at = 2; at + 1 < count; at += 2) _given[arguments[at] + 2] = arguments[at + 1];
}

std::string Options::text(const std::string &name, const std::string &otherwise) const {
    const auto found = _given.find(name);
    return found == _given.end() ? otherwise : found->second;
}

double Options::number(const std::string &name, double otherwise) const {
    const std::string given = text(name);
    return given.empty() ? otherwise : std::stod(given);
}

uint32_t Options::count(const std::string &name, uint32_t otherwise) const {
    return uint32_t(number(name, otherwise));
}

Target Options::target() const {
    Target target{uint16_t(count("port", 0))};
    target.rate = number("rate", target.rate);
    target.sources = count("sources", target.sources);
    target.patience = number("patience", target.patience);
    target.origin = count("origin", target.origin);
    target.sleeps = cores() < 2;
    return target;
}

}  // namespace load

int main(int count, char **arguments) {
    static const std::map<std::string, void (*)(load::Crowd &, const load::Options &, load::Line &)>
        workloads{{"demo", load::demo},
                  {"fanout", load::fanout},
                  {"idle", load::idle},
                  {"restart", load::restart},
                  {"handshake", load::handshake},
                  {"echo", load::echo},
                  {"stream", load::stream},
                  {"post", load::post}};
    const auto found = workloads.find(count > 1 ? arguments[1] : "");
    if (found == workloads.end() || count % 2) {
        std::fprintf(stderr, "load demo|fanout|idle|restart|handshake|echo|stream|post --port PORT --path PATH ...\n");
        return 2;
    }
    signal(SIGPIPE, SIG_IGN);
    const load::Options options(count, arguments);
    load::Crowd crowd(options.target());
    load::Line result;
    result.add("at", std::string_view("done"));
    found->second(crowd, options, result);
    result.add("faults", crowd.faults.words()).print();
    // Skip the closing handshakes: their cost for the server is not measured.
    _exit(crowd.faults.none() ? 0 : 1);
}
