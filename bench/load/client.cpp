#include "client.hpp"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "crowd.hpp"
#include "frames.hpp"

namespace load {

namespace {

// The example key of RFC 6455 §1.3, so that the accept value is a constant.
constexpr std::string_view KEY = "dGhlIHNhbXBsZSBub25jZQ==";
constexpr std::string_view ACCEPT = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";
constexpr size_t LONGEST_ANSWER = 8192;

}  // namespace

Client::Client(Crowd &crowd, uint32_t number, std::string path)
    : number(number), _crowd(crowd), _path(std::move(path)) {}

Client::~Client() {
    if (_fd >= 0) ::close(_fd);
}

void Client::connect() {
    stage = Stage::CONNECTING;
    _crowd.arriving++;
    _fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (_fd < 0) return fail("socket", strerror(errno));
    int on = 1;
    setsockopt(_fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    if (_crowd.target.sources > 1) {
        setsockopt(_fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &on, sizeof on);
        sockaddr_in own = _crowd.source(number);
        if (bind(_fd, reinterpret_cast<sockaddr *>(&own), sizeof own)) {
            return fail("bind", strerror(errno));
        }
    }
    sockaddr_in server{};
    server.sin_family = AF_INET;
    server.sin_port = htons(_crowd.target.port);
    server.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (::connect(_fd, reinterpret_cast<sockaddr *>(&server), sizeof server) &&
        errno != EINPROGRESS) {
        return fail("connect", strerror(errno));
    }
    epoll_event event{EPOLLIN | EPOLLOUT, {.ptr = this}};
    epoll_ctl(_crowd._epoll, EPOLL_CTL_ADD, _fd, &event);
    _watches_write = true;
}

void Client::send(std::string_view text) {
    cork(text);
    uncork();
}

void Client::cork(std::string_view text) { append_frame(_corked, TEXT, text); }

void Client::uncork() {
    std::string bytes = std::move(_corked);
    _corked.clear();
    write(bytes);
}

void Client::leave(uint16_t with) {
    const char code[2] = {char(with >> 8), char(with)};
    std::string bytes;
    append_frame(bytes, CLOSE, {code, 2});
    write(bytes);
    if (stage == Stage::OPEN) {
        stage = Stage::LEAVING;
        _crowd.open--;
    }
}

// The headers of Chromium, without the offer of compression.
std::string Client::handshake() const {
    const std::string host = "127.0.0.1:" + std::to_string(_crowd.target.port);
    const std::string origin = _crowd.target.origin ? "\r\nOrigin: http://" + host : "";
    return "GET " + _path + " HTTP/1.1\r\nHost: " + host +
           "\r\nConnection: Upgrade\r\nPragma: no-cache\r\nCache-Control: no-cache\r\n"
           "User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) "
           "Chrome/142.0.0.0 Safari/537.36\r\nUpgrade: websocket" + origin +
           "\r\nSec-WebSocket-Version: 13\r\nAccept-Encoding: gzip, deflate, br, zstd\r\n"
           "Accept-Language: en-US,en;q=0.9\r\nSec-WebSocket-Key: " + std::string(KEY) + "\r\n\r\n";
}

void Client::stir(uint32_t events) {
    if (stage == Stage::CONNECTING && events & (EPOLLOUT | EPOLLERR | EPOLLHUP)) {
        int error = 0;
        socklen_t size = sizeof error;
        getsockopt(_fd, SOL_SOCKET, SO_ERROR, &error, &size);
        if (error) return fail("connect", strerror(error));
        stage = Stage::ASKING;
        watch(false);
        return write(handshake());
    }
    if (events & EPOLLOUT) flush();
    if (stage != Stage::GONE && events & (EPOLLIN | EPOLLERR | EPOLLHUP)) read();
}

void Client::read() {
    static char buffer[1 << 18];
    ssize_t count = recv(_fd, buffer, sizeof buffer, 0);
    if (count > 0) {
        std::string_view bytes(buffer, count);
        if (_unread.empty()) {
            size_t taken = take(bytes);
            if (stage != Stage::GONE) _unread.assign(bytes.substr(taken));
        } else {
            _unread.append(bytes);
            std::string all = std::move(_unread);
            _unread.clear();
            size_t taken = take(all);
            if (stage != Stage::GONE) _unread.assign(all, taken);
        }
        return;
    }
    if (count < 0 && errno == EAGAIN) return;
    // Some servers reset the connection after the closing handshake, which is fine.
    if (code) return end();
    fail(stage < Stage::OPEN ? "refused" : "cut", count ? strerror(errno) : "end of stream");
}

size_t Client::take(std::string_view bytes) {
    size_t taken = 0;
    if (stage == Stage::ASKING) {
        taken = take_answer(bytes);
        if (!taken) return 0;
    }
    Frame frame;
    size_t length;
    while (stage == Stage::OPEN || stage == Stage::LEAVING) {
        switch (cut_frame(bytes.substr(taken), frame, length)) {
            case Cut::INCOMPLETE:
                return taken;
            case Cut::WRONG:
                fail("frame", "unsupported header");
                return taken;
            case Cut::FRAME:
                taken += length;
                take_frame(frame.opcode, frame.payload);
        }
    }
    return taken;
}

size_t Client::take_answer(std::string_view bytes) {
    size_t end = bytes.find("\r\n\r\n");
    if (end == std::string_view::npos) {
        if (bytes.size() > LONGEST_ANSWER) fail("answer", "too long");
        return 0;
    }
    std::string_view head = bytes.substr(0, end);
    if (!head.starts_with("HTTP/1.1 101") || head.find(ACCEPT) == std::string_view::npos) {
        fail("answer", head.substr(0, head.find('\r')));
        return 0;
    }
    stage = Stage::OPEN;
    _crowd.arriving--;
    _crowd.open++;
    _crowd.opened(*this);
    return end + 4;
}

void Client::take_frame(uint8_t opcode, std::string_view payload) {
    _crowd.frames++;
    switch (opcode) {
        case TEXT:
        case BINARY:
            // Messages that arrive after our Close frame are not checked.
            if (stage == Stage::OPEN) _crowd.received(*this, payload);
            return;
        case PING: {
            pings++;
            _crowd.pings++;
            std::string bytes;
            append_frame(bytes, PONG, payload);
            return write(bytes);
        }
        case PONG:
            return;
        case CLOSE:
            if (payload.size() < 2 || code) return fail("close", "no code, or a second Close");
            code = uint16_t(uint8_t(payload[0]) << 8 | uint8_t(payload[1]));
            // If the server began the closing handshake, answer; then it closes the connection.
            if (stage == Stage::OPEN) leave(code);
            return;
        default:
            fail("frame", "unknown opcode");
    }
}

void Client::write(std::string_view bytes) {
    if (_unsent.empty()) {
        ssize_t count = ::send(_fd, bytes.data(), bytes.size(), MSG_NOSIGNAL);
        // Reading reports a broken connection.
        if (count < 0 && errno != EAGAIN) return;
        if (count > 0) bytes.remove_prefix(count);
        if (bytes.empty()) return;
    }
    _unsent.append(bytes);
    watch(true);
}

void Client::flush() {
    std::string bytes = std::move(_unsent);
    _unsent.clear();
    watch(false);
    if (!bytes.empty()) write(bytes);
}

void Client::watch(bool writable) {
    if (_watches_write == writable) return;
    _watches_write = writable;
    epoll_event event{EPOLLIN | (writable ? uint32_t(EPOLLOUT) : 0), {.ptr = this}};
    epoll_ctl(_crowd._epoll, EPOLL_CTL_MOD, _fd, &event);
}

void Client::fail(const char *kind, std::string_view detail) {
    if (_crowd.lenient) {
        _crowd.broken++;
    } else {
        _crowd.faults.note(kind, detail);
    }
    end();
}

void Client::end() {
    if (stage == Stage::CONNECTING || stage == Stage::ASKING) _crowd.arriving--;
    if (stage == Stage::OPEN) _crowd.open--;
    stage = Stage::GONE;
    if (_fd >= 0) ::close(_fd);
    _fd = -1;
    _crowd.gone(*this);
}

}  // namespace load
