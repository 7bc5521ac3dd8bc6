// The payloads of messages, and the load generator's own share of a core.
#pragma once

#include <cstdint>
#include <cstdio>
#include <string>

#include "poll.hpp"
#include "report.hpp"

namespace load {

// A unique text of `size` bytes for this message.
inline std::string make_payload(uint32_t first, uint32_t second, size_t size) {
    char head[32];
    std::snprintf(head, sizeof head, "%08x.%08x ", first, second);
    std::string text = head;
    for (uint32_t at = first + second; text.size() < size; at++) text += char('a' + at % 26);
    return text;
}

// The share of the time between start and end in which the load generator did not wait. Close to 1,
// it is the load generator that is measured rather than the server.
class Busy {
  public:
    void add_to(Line &result) {
        const double wall = now() - _wall;
        result.add("seconds", wall / 1e9).add("busy", 1 - (waited - _waited) / wall);
    }

  private:
    int64_t _wall = now(), _waited = waited;
};

}  // namespace load
