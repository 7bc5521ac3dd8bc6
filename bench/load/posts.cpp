// Publishers over HTTP: each posts, and posts again once it has been answered.
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <memory>

#include "payload.hpp"
#include "poll.hpp"
#include "workloads.hpp"

namespace load {

namespace {

// A publisher with a topic of its own, so that the ids in its answers count up: `%` in the path
// stands for its number.
struct Publisher {
    uint32_t number = 0;
    int fd = -1;
    std::string path, unread;
    // The number of answers, and of publications.
    uint32_t answered = 0, published = 0;
};

class Publishers {
  public:
    Publishers(Crowd &crowd, const Options &options)
        : _faults(crowd.faults), _target(crowd.target), _batch(options.count("batch", 0)),
          _ids(options.count("ids", 1)), _epoll(epoll_create1(EPOLL_CLOEXEC)) {
        const std::string path = options.text("path");
        for (uint32_t at = 0; at < options.count("clients", 10); at++) {
            auto one = std::make_unique<Publisher>();
            one->number = at;
            one->path = path;
            if (const size_t mark = path.find('%'); mark != std::string::npos) {
                one->path.replace(mark, 1, std::to_string(at));
            }
            connect(*one);
            _all.push_back(std::move(one));
        }
    }
    ~Publishers() {
        for (auto &one : _all) ::close(one->fd);
        ::close(_epoll);
    }
    Publishers(const Publishers &) = delete;

    // Let each publisher post this many times more, one request at a time.
    void run(uint32_t more) {
        _goal += more;
        _done = 0;
        for (auto &one : _all) post(*one);
        int64_t last = now();
        while (_done < _all.size() && _faults.none()) {
            epoll_event events[64];
            const int count = await_events(_epoll, events, 64, 100, _target.sleeps);
            for (int at = 0; at < count; at++) read(*static_cast<Publisher *>(events[at].data.ptr));
            if (count) {
                last = now();
            } else if (now() - last > _target.patience * 1e9) {
                _faults.note("stall", "no progress within the time limit");
            }
        }
    }

  private:
    void connect(Publisher &one) {
        one.fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
        int on = 1;
        setsockopt(one.fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
        sockaddr_in server{};
        server.sin_family = AF_INET;
        server.sin_port = htons(_target.port);
        server.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        if (::connect(one.fd, reinterpret_cast<sockaddr *>(&server), sizeof server)) {
            return _faults.note("connect", strerror(errno));
        }
        epoll_event event{EPOLLIN, {.ptr = &one}};
        epoll_ctl(_epoll, EPOLL_CTL_ADD, one.fd, &event);
    }

    std::string body(Publisher &one) {
        if (!_batch) return make_payload(one.number, one.published++, 128);
        std::string text = "{\"publications\":[";
        for (uint32_t at = 0; at < _batch; at++) {
            text += std::string(at ? "," : "") + "{\"topic\":\"bench/" +
                    std::to_string(one.number) + "\",\"data\":\"" +
                    make_payload(one.number, one.published++, 128) + "\"}";
        }
        return text + "]}";
    }

    void post(Publisher &one) {
        const std::string content = body(one);
        const std::string request =
            "POST " + one.path + " HTTP/1.1\r\nHost: 127.0.0.1:" + std::to_string(_target.port) +
            "\r\nUser-Agent: bench\r\nAccept: */*\r\nContent-Type: " +
            (_batch ? "application/json" : "text/plain") +
            "\r\nContent-Length: " + std::to_string(content.size()) + "\r\n\r\n" + content;
        for (size_t sent = 0; sent < request.size();) {
            const ssize_t count =
                ::send(one.fd, request.data() + sent, request.size() - sent, MSG_NOSIGNAL);
            if (count < 0) return _faults.note("cut", strerror(errno));
            sent += count;
        }
    }

    void read(Publisher &one) {
        static char buffer[1 << 18];
        const ssize_t count = recv(one.fd, buffer, sizeof buffer, 0);
        if (count <= 0) return _faults.note("cut", count ? strerror(errno) : "end of stream");
        one.unread.append(buffer, count);
        const size_t head = one.unread.find("\r\n\r\n");
        if (head == std::string::npos) return;
        if (!one.unread.starts_with("HTTP/1.1 20")) return _faults.note("answer", one.unread);
        const size_t length = one.unread.find("ontent-Length: ");
        if (length > head) return _faults.note("answer", "no Content-Length");
        const size_t size = std::strtoul(one.unread.c_str() + length + 15, nullptr, 10);
        if (one.unread.size() < head + 4 + size) return;
        check(one, std::string_view(one.unread).substr(head + 4));
        one.unread.clear();
        if (++one.answered < _goal) return post(one);
        _done++;
    }

    // The ids of all publications of this request must be there, in their order.
    void check(const Publisher &one, std::string_view content) {
        const uint32_t together = _batch ? _batch : 1;
        for (uint32_t at = 1; _ids && at <= together; at++) {
            const std::string end = ":" + std::to_string(one.published - together + at) + "\"";
            const size_t found = content.find(end);
            if (found == std::string_view::npos) return _faults.note("answer", content);
            content.remove_prefix(found + end.size());
        }
        if (_ids && content.find("\"id\"") != std::string_view::npos) {
            _faults.note("answer", "too many ids");
        }
    }

    Faults &_faults;
    const Target &_target;
    const uint32_t _batch;
    const bool _ids;
    const int _epoll;
    std::vector<std::unique_ptr<Publisher>> _all;
    uint32_t _goal = 0, _done = 0;
};

}  // namespace

void post(Crowd &crowd, const Options &options, Line &result) {
    Publishers publishers(crowd, options);
    if (const uint32_t warm = options.count("warm", 50)) publishers.run(warm);
    gate("start");
    Busy busy;
    const uint32_t each = options.count("each", 500);
    if (crowd.faults.none()) publishers.run(each);
    busy.add_to(result);
    gate("end");
    result.add("units", double(each) * options.count("clients", 10) *
                            std::max(1u, options.count("batch", 0)));
}

}  // namespace load
