// The payloads of messages, and the load generator's own share of a core.
#pragma once

#include <cstdint>
#include <cstdio>
#include <string>

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

// The load generator's own share of a core between start and end. Close to 1, it is the load
// generator that is measured rather than the server.
class Busy {
  public:
    void add_to(Line &result) {
        const double wall = (now() - _wall) / 1e9;
        result.add("seconds", wall).add("busy", (own_cpu() - _cpu) / wall);
    }

  private:
    int64_t _wall = now();
    double _cpu = own_cpu();
};

}  // namespace load
