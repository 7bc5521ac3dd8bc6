// All browsers of one run, on one epoll: how they arrive, and what they have in common.
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

// Where the server is, and how browsers come to it.
struct Target {
    uint16_t port;
    // How many arrive in a second, and how many of them may be in their handshake at once.
    double rate = 2000;
    uint32_t at_once = 64;
    // From how many addresses, 127.0.0.1 and following.
    uint32_t sources = 1;
    // How many seconds without any news are too many.
    double patience = 30;
};

class Crowd {
  public:
    explicit Crowd(Target target);
    ~Crowd();

    // What a workload wants to hear of.
    std::function<void(Client &)> opened = [](Client &) {};
    std::function<void(Client &, std::string_view)> received;
    std::function<void(Client &)> gone = [](Client &) {};

    Client &add(const std::string &path);
    // Let all that were added arrive, or only wait until they have; false when they do not.
    bool arrive();
    // Turn the loop until this is so; false when nothing has happened for too long.
    bool run_until(const std::function<bool()> &reached);
    // Turn the loop for this many seconds, whatever happens.
    void run_for(double seconds);
    // Turn the loop once, for at most this many milliseconds.
    void turn(int milliseconds);
    // Let those go that are gone.
    void forget();

    const Target target;
    Faults faults;
    std::vector<std::unique_ptr<Client>> clients;
    // In their handshake just now; open now; frames that ever came.
    uint32_t arriving = 0, open = 0;
    uint64_t frames = 0, pings = 0;

  private:
    friend class Client;
    sockaddr_in source(uint32_t number) const;

    int _epoll;
    size_t _started = 0;
};

}  // namespace load
