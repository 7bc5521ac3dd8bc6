// The interface to the driver: lines of JSON on stdout, and gates.
#pragma once

#include <time.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <string>
#include <string_view>
#include <vector>

namespace load {

// Monotonic time, in nanoseconds.
inline int64_t now() {
    timespec at;
    clock_gettime(CLOCK_MONOTONIC, &at);
    return at.tv_sec * 1'000'000'000LL + at.tv_nsec;
}

// A JSON object on one line.
class Line {
  public:
    Line &add(const char *name, double value) {
        char text[64];
        std::snprintf(text, sizeof text, "%.10g", value);
        return put(name, text);
    }
    Line &add(const char *name, std::string_view value) {
        std::string text = "\"";
        for (char one : value) text += one < ' ' || one == '"' || one == '\\' ? '.' : one;
        return put(name, text + '"');
    }
    void print() {
        std::printf("{%s}\n", _text.c_str());
        std::fflush(stdout);
    }

  private:
    Line &put(const char *name, const std::string &value) {
        if (!_text.empty()) _text += ", ";
        _text += std::string("\"") + name + "\": " + value;
        return *this;
    }
    std::string _text;
};

// Print the name of the gate, and wait until the driver has measured the server.
inline void gate(const char *place) {
    Line().add("at", std::string_view(place)).print();
    char line[16];
    if (!std::fgets(line, sizeof line, stdin)) std::exit(3);  // The driver has ended.
}

// Faults, counted by kind, with the details of the first one.
class Faults {
  public:
    void note(const char *kind, std::string_view detail = "") {
        if (_counts.empty()) _first = std::string(kind) + ": " + std::string(detail.substr(0, 120));
        _counts[kind]++;
    }
    bool none() const { return _counts.empty(); }
    std::string words() const {
        std::string text;
        for (const auto &[kind, count] : _counts)
            text += (text.empty() ? "" : ", ") + std::to_string(count) + " x " + kind;
        return none() ? text : text + " (first: " + _first + ")";
    }

  private:
    std::map<std::string, long> _counts;
    std::string _first;
};

// A percentile: `share` is between 0 and 1.
inline double percentile(std::vector<double> &values, double share) {
    if (values.empty()) return 0;
    std::sort(values.begin(), values.end());
    return values[std::min(values.size() - 1, size_t(share * values.size()))];
}

}  // namespace load
