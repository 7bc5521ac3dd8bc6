#include "workloads.hpp"

#include <algorithm>
#include <cstdlib>
#include <deque>
#include <map>

#include "payload.hpp"

namespace load {

namespace {

constexpr int NORMAL = 1000;

// Open and close some connections first: one-time costs, such as loading code, must not count.
void rehearse(Crowd &crowd, const std::string &path, uint32_t count) {
    for (uint32_t at = 0; at < count; at++) crowd.add(path);
    crowd.arrive();
    for (auto &client : crowd.clients) {
        if (client->stage == Client::Stage::OPEN) client->leave(NORMAL);
    }
    crowd.run_until([&] {
        for (auto &client : crowd.clients) {
            if (client->stage != Client::Stage::GONE) return false;
        }
        return true;
    });
    crowd.forget();
    crowd.run_for(0.5);
}

}  // namespace

// Browsers that arrive at a given rate. Each sends a hello, and gets ten pushes, half a second
// apart, and a Close.
void demo(Crowd &crowd, const Options &options, Line &result) {
    const uint32_t browsers = options.count("browsers", 4000), pushes = 10;
    const double interval = 0.5;
    std::vector<double> lateness;
    uint32_t served = 0, left = 0;
    crowd.opened = [](Client &client) {
        client.since = now();
        client.send("[\"1\",\"2\",\"3\"]");
    };
    crowd.received = [&](Client &client, std::string_view payload) {
        const double due = client.since / 1e6 + client.got * interval * 1e3;
        lateness.push_back(now() / 1e6 - due);
        if (client.got >= pushes || payload != "service message: " + std::to_string(client.got)) {
            crowd.faults.note("payload", payload);
        }
        client.got++;
    };
    crowd.gone = [&](Client &client) {
        left++;
        if (client.got == pushes && client.code == NORMAL) served++;
    };
    for (uint32_t at = 0; at < browsers; at++) crowd.add(options.text("path"));
    lateness.reserve(size_t(browsers) * pushes);
    gate("start");
    Busy busy;
    crowd.arrive();
    crowd.run_until([&] { return left == browsers; });
    busy.add_to(result);
    gate("end");
    if (served != browsers) {
        crowd.faults.note("demo", std::to_string(browsers - served) + " browsers missed pushes");
    }
    result.add("units", lateness.size());
    result.add("p50", percentile(lateness, 0.5)).add("p99", percentile(lateness, 0.99));
    result.add("max", percentile(lateness, 1));
}

// One topic with many subscribers. Publications are sent in bursts, the next one after all
// deliveries of the last. The warm-up does not depend on the size of the bursts.
void fanout(Crowd &crowd, const Options &options, Line &result) {
    const uint32_t subscribers = options.count("subscribers", 1000);
    const uint32_t burst = options.count("burst", 1), times = options.count("times", 100);
    std::deque<std::string> published;
    uint64_t delivered = 0;
    crowd.received = [&](Client &client, std::string_view payload) {
        // Some servers send the publisher a response.
        if (client.number == subscribers) return;
        // Each subscriber must get every publication once, in order.
        if (client.got >= published.size() || payload != published[client.got]) {
            return crowd.faults.note("payload", payload);
        }
        client.got++;
        delivered++;
    };
    if (options.count("rehearse", 0)) {
        rehearse(crowd, options.text("path"), options.count("rehearse", 0));
    }
    gate("empty");
    for (uint32_t at = 0; at < subscribers; at++) crowd.add(options.text("path"));
    bool well = crowd.arrive();
    Client &publisher = crowd.add(options.text("publish"));
    // Servers may subscribe a client some time after the 101.
    well = well && crowd.arrive() && crowd.faults.none();
    crowd.run_for(0.3);
    gate("connected");
    auto publish = [&](uint32_t together) {
        for (uint32_t at = 0; at < together; at++) {
            published.push_back(make_payload(uint32_t(published.size()), burst, 128));
            if (at + 1 < together) publisher.cork(published.back());
        }
        publisher.send(published.back());
        const uint64_t all = uint64_t(subscribers) * published.size();
        well = crowd.run_until([&] { return delivered >= all || !crowd.faults.none(); }) &&
               crowd.faults.none();
    };
    for (uint32_t at = 0; well && at < options.count("warm", 20); at++) publish(1);
    const uint64_t before = delivered;
    gate("start");
    Busy busy;
    for (uint32_t at = 0; well && at < times; at++) publish(burst);
    busy.add_to(result);
    gate("end");
    crowd.run_for(0.1);
    const uint64_t all = uint64_t(subscribers) * published.size();
    if (!well || delivered != all) crowd.faults.note("delivered", "not to all subscribers");
    result.add("units", delivered - before);
}

// Idle subscribers, which get nothing but pings.
void idle(Crowd &crowd, const Options &options, Line &result) {
    const uint32_t connections = options.count("connections", 5000);
    const bool pinged = options.count("pinged", 1);
    crowd.received = [&](Client &, std::string_view payload) {
        crowd.faults.note("payload", payload);
    };
    rehearse(crowd, options.text("path"), options.count("rehearse", 100));
    gate("empty");
    for (uint32_t at = 0; at < connections; at++) crowd.add(options.text("path"));
    crowd.arrive();
    const int64_t arrived = now();
    const uint64_t before = crowd.pings;
    Busy busy;
    auto unpinged = [&] {
        uint32_t count = 0;
        for (auto &client : crowd.clients) count += !client->pings;
        return count;
    };
    const double longest = options.number("longest", 60);
    do crowd.run_for(1);
    while (pinged && unpinged() && crowd.faults.none() && now() - arrived < longest * 1e9);
    crowd.run_for(1);
    busy.add_to(result);
    gate("full");
    if (pinged && unpinged()) crowd.faults.note("ping", std::to_string(unpinged()) + " not pinged");
    if (crowd.open != connections) crowd.faults.note("cut", "not all connections are still open");
    result.add("units", crowd.open).add("pings", crowd.pings - before);
}

// Subscribers that are idle for a while, then get some publications, each after all deliveries of
// the last, and come back when the server is restarted, as browsers do: after a random time, which
// doubles whenever they fail. Then they get one more publication.
void restart(Crowd &crowd, const Options &options, Line &result) {
    const uint32_t subscribers = options.count("subscribers", 50000);
    const double first_delay = 0.5, longest_delay = 20;
    // What `since` says of a client: it publishes, it was there first, or it has come back.
    constexpr int64_t PUBLISHER = -1, FIRST = 0, BACK = 1;
    std::deque<std::string> published;
    std::vector<double> took;
    uint64_t delivered = 0;
    bool well = true;
    crowd.opened = [&](Client &client) { client.got = uint32_t(published.size()); };
    crowd.received = [&](Client &client, std::string_view payload) {
        if (client.since == PUBLISHER) return;
        if (client.got >= published.size() || payload != published[client.got]) {
            return crowd.faults.note("payload", payload);
        }
        client.got++;
        delivered++;
    };
    auto publish = [&](uint32_t times) {
        Client &publisher = crowd.add(options.text("publish"));
        publisher.since = PUBLISHER;
        publisher.connect();
        // Servers may subscribe a client some time after the 101.
        well = well && crowd.run_until([&] { return !crowd.arriving; });
        crowd.run_for(1);
        for (uint32_t at = 0; well && at < times; at++) {
            delivered = 0;
            const int64_t begun = now();
            published.push_back(make_payload(uint32_t(published.size()), 1, 128));
            publisher.send(published.back());
            well = crowd.run_until([&] {
                return delivered >= subscribers || !crowd.faults.none();
            }) && crowd.faults.none();
            took.push_back((now() - begun) / 1e6);
        }
        publisher.leave(NORMAL);
        crowd.run_until([&] { return publisher.stage == Client::Stage::GONE; });
    };
    rehearse(crowd, options.text("path"), options.count("rehearse", 100));
    gate("empty");
    for (uint32_t at = 0; at < subscribers; at++) crowd.add(options.text("path"));
    well = crowd.arrive() && crowd.faults.none();
    crowd.run_for(1);
    gate("connected");
    crowd.run_for(options.number("idle", 30));
    gate("full");
    publish(1);
    took.clear();
    gate("start");
    Busy busy;
    publish(options.count("times", 5));
    busy.add_to(result);
    gate("end");
    result.add("deliveries", uint64_t(subscribers) * took.size());
    result.add("seconds_to_all", percentile(took, 0.5) / 1e3);

    // By the time at which they connect again: how long they may have to wait if they fail.
    std::multimap<int64_t, double> absent;
    uint32_t left = 0;
    auto come_later = [&](double within) {
        const double wait = within * std::rand() / RAND_MAX;
        absent.emplace(now() + int64_t(wait * 1e9), within);
    };
    std::map<const Client *, double> coming;
    crowd.lenient = true;
    crowd.gone = [&](Client &client) {
        left += client.since == FIRST;
        const auto found = coming.find(&client);
        const double last = found == coming.end() ? 0 : found->second;
        coming.erase(&client);
        come_later(last ? std::min(2 * last, longest_delay) : first_delay);
    };
    crowd.opened = [&](Client &client) {
        coming.erase(&client);
        client.got = uint32_t(published.size());
    };
    gate("restart");
    const int64_t begun = now();
    well = well && crowd.run_until([&] {
        while (!absent.empty() && absent.begin()->first <= now()) {
            Client &client = crowd.add(options.text("path"));
            client.since = BACK;
            coming[&client] = absent.begin()->second;
            absent.erase(absent.begin());
            client.connect();
        }
        return left == subscribers && crowd.open == subscribers;
    });
    result.add("back", (now() - begun) / 1e9).add("broken", crowd.broken);
    crowd.lenient = false;
    crowd.gone = [](Client &) {};
    crowd.run_for(1);
    gate("back");
    if (well) publish(1);
    crowd.run_for(0.1);
    if (!well || delivered != subscribers || crowd.open != subscribers) {
        crowd.faults.note("back", "not all subscribers have come back");
    }
    result.add("units", crowd.open);
}

// Handshake, then close: a few connections at a time, as fast as the server accepts them.
void handshake(Crowd &crowd, const Options &options, Line &result) {
    const uint32_t total = options.count("total", 3000), at_once = options.count("atonce", 20);
    uint32_t left = 0, well = 0;
    crowd.received = [&](Client &, std::string_view payload) {
        crowd.faults.note("payload", payload);
    };
    crowd.opened = [](Client &client) { client.leave(NORMAL); };
    crowd.gone = [&](Client &client) {
        left++;
        if (client.code == NORMAL) well++;
    };
    auto come_and_go = [&](uint32_t count) {
        uint32_t come = left = well = 0;
        crowd.run_until([&] {
            while (come < count && come - left < at_once) {
                come++;
                crowd.add(options.text("path")).connect();
            }
            if (crowd.clients.size() > 1000) crowd.forget();
            return left == count;
        });
        crowd.forget();
    };
    come_and_go(options.count("warm", 300));
    gate("start");
    Busy busy;
    come_and_go(total);
    busy.add_to(result);
    gate("end");
    if (well != total) {
        crowd.faults.note("close", std::to_string(total - well) + " without code 1000");
    }
    result.add("units", left);
}

// Each client sends a message, and the next one after the echo of the last.
void echo(Crowd &crowd, const Options &options, Line &result) {
    const uint32_t clients = options.count("clients", 100), each = options.count("each", 200);
    const uint32_t warm = options.count("warm", 20);
    uint32_t goal = 0, done = 0;
    crowd.received = [&](Client &client, std::string_view payload) {
        if (client.got >= goal || payload != make_payload(client.number, client.got, 128)) {
            return crowd.faults.note("payload", payload);
        }
        if (++client.got < goal) return client.send(make_payload(client.number, client.got, 128));
        done++;
    };
    auto talk = [&](uint32_t more) {
        goal += more;
        done = 0;
        for (auto &client : crowd.clients) {
            client->send(make_payload(client->number, client->got, 128));
        }
        crowd.run_until([&] { return done == clients || !crowd.faults.none(); });
    };
    for (uint32_t at = 0; at < clients; at++) crowd.add(options.text("path"));
    if (crowd.arrive() && crowd.faults.none() && warm) talk(warm);
    gate("start");
    Busy busy;
    if (crowd.faults.none()) talk(each);
    busy.add_to(result);
    gate("end");
    uint64_t messages = 0;
    for (auto &client : crowd.clients) messages += client->got;
    result.add("units", messages - uint64_t(clients) * warm);
}

// Publishers that send a line of JSON for each publication, with at most `window` unanswered. Each
// has a topic of its own, so that the ids in its answers count up.
void stream(Crowd &crowd, const Options &options, Line &result) {
    const uint32_t clients = options.count("clients", 10), each = options.count("each", 1000);
    const uint32_t warm = options.count("warm", 100), window = options.count("window", 1);
    const bool ids = options.count("ids", 1);
    std::vector<uint32_t> sent(clients, 0), first(clients, 0);
    uint32_t goal = 0, done = 0;
    auto go_on = [&](Client &client) {
        uint32_t &next = sent[client.number];
        // Half a window at a time, as a program does that reads its lines from somewhere.
        if (next - client.got > window / 2) return;
        bool any = false;
        for (; next < goal && next - client.got < window; next++, any = true) {
            client.cork("{\"topic\":\"bench/" + std::to_string(client.number) +
                        "\",\"data\":\"" + make_payload(client.number, next, 128) + "\"}");
        }
        if (any) client.uncork();
    };
    crowd.received = [&](Client &client, std::string_view payload) {
        // The topic may have had publications before.
        if (const size_t colon = payload.rfind(":", payload.find("\",")); !client.got && ids) {
            first[client.number] = colon == std::string_view::npos
                                       ? 0
                                       : uint32_t(std::strtoul(payload.data() + colon + 1, 0, 10));
        }
        const std::string id_end =
            ":" + std::to_string(client.got + std::max(1u, first[client.number])) + "\"";
        if (client.got >= sent[client.number] ||
            (ids && payload.find(id_end) == std::string_view::npos)) {
            return crowd.faults.note("answer", payload);
        }
        if (++client.got == goal) done++;
        go_on(client);
    };
    auto publish = [&](uint32_t more) {
        goal += more;
        done = 0;
        for (auto &client : crowd.clients) go_on(*client);
        crowd.run_until([&] { return done == clients || !crowd.faults.none(); });
    };
    for (uint32_t at = 0; at < clients; at++) crowd.add(options.text("path"));
    if (crowd.arrive() && crowd.faults.none() && warm) publish(warm);
    gate("start");
    Busy busy;
    if (crowd.faults.none()) publish(each);
    busy.add_to(result);
    gate("end");
    uint64_t answers = 0;
    for (auto &client : crowd.clients) answers += client->got;
    result.add("units", answers - uint64_t(clients) * warm);
}

}  // namespace load
