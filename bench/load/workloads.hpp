// The workloads. Each stops at its gates, and adds its result to a line of JSON.
#pragma once

#include <map>
#include <string>

#include "crowd.hpp"

namespace load {

// The options of the command line: names without dashes, and values.
class Options {
  public:
    Options(int count, char **arguments);
    std::string text(const std::string &name, const std::string &otherwise = "") const;
    double number(const std::string &name, double otherwise) const;
    uint32_t count(const std::string &name, uint32_t otherwise) const;
    Target target() const;

  private:
    std::map<std::string, std::string> _given;
};

void demo(Crowd &, const Options &, Line &);
void fanout(Crowd &, const Options &, Line &);
void idle(Crowd &, const Options &, Line &);
void restart(Crowd &, const Options &, Line &);
void handshake(Crowd &, const Options &, Line &);
void echo(Crowd &, const Options &, Line &);
void stream(Crowd &, const Options &, Line &);
void post(Crowd &, const Options &, Line &);

}  // namespace load
