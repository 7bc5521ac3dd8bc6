// All clients of a run, on one epoll instance.
#pragma once

#include <netinet/in.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "client.hpp"
#include "report.hpp"

namespace load {

// The server, and how clients connect to it.
struct Target {
    uint16_t port;
    // New connections per second, and the maximum number of concurrent handshakes.
    double rate = 2000;
    uint32_t at_once = 64;
    // Number of source addresses, starting with 127.0.0.1.
    uint32_t sources = 1;
    // Seconds without progress after which the run fails.
    double patience = 30;
    // Whether clients send an Origin, as browsers do.
    bool origin = true;
    // Whether to sleep while waiting, on a core that others need.
    bool sleeps = false;
};

class Crowd {
  public:
    explicit Crowd(Target target);
    ~Crowd();

    // Callbacks of the workload.
    std::function<void(Client &)> opened = [](Client &) {};
    std::function<void(Client &, std::string_view)> received;
    std::function<void(Client &)> gone = [](Client &) {};

    Client &add(const std::string &path);
    // Connect all new clients, and wait for their handshakes; false if there is no progress.
    bool arrive();
    // Run the loop until the condition holds; false if there is no progress.
    bool run_until(const std::function<bool()> &reached);
    // Run the loop for this many seconds, in which little is expected: it sleeps meanwhile.
    void run_for(double seconds);
    // Run the loop once, waiting for at most this many milliseconds.
    void turn(int milliseconds, bool sleeps);
    // Remove the clients whose connections are closed.
    void forget();

    const Target target;
    Faults faults;
    std::vector<std::unique_ptr<Client>> clients;
    // Whether connections may break: they are counted, and are no faults.
    bool lenient = false;
    uint32_t broken = 0;
    // Current handshakes, current open connections; total frames and pings received.
    uint32_t arriving = 0, open = 0;
    uint64_t frames = 0, pings = 0;

  private:
    friend class Client;
    sockaddr_in source(uint32_t number) const;

    int _epoll;
    size_t _started = 0;
};

}  // namespace load
