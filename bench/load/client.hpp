// A WebSocket client: opening handshake, frames, pings, closing handshake.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace load {

class Crowd;

class Client {
  public:
    enum class Stage { IDLE, CONNECTING, ASKING, OPEN, LEAVING, GONE };

    Client(Crowd &crowd, uint32_t number, std::string path);
    ~Client();
    Client(const Client &) = delete;

    void connect();
    // Send a text message, in one segment with all messages corked before it.
    void send(std::string_view text);
    void cork(std::string_view text);
    void uncork();
    // Begin the closing handshake; the server ends it by closing the connection.
    void leave(uint16_t code);
    // Handle epoll events of the socket.
    void stir(uint32_t events);

    const uint32_t number;
    Stage stage = Stage::IDLE;
    // For the workload: the number of messages received, and the time of the hello.
    uint32_t got = 0;
    int64_t since = 0;
    // The number of pings received, and the code of the server's Close frame (0 before it).
    uint32_t pings = 0;
    uint16_t code = 0;

  private:
    std::string handshake() const;
    void read();
    // Parse as much as possible, and return the number of bytes consumed.
    size_t take(std::string_view bytes);
    size_t take_answer(std::string_view bytes);
    void take_frame(uint8_t opcode, std::string_view payload);
    void write(std::string_view bytes);
    void flush();
    void watch(bool writable);
    void fail(const char *kind, std::string_view detail = "");
    void end();

    Crowd &_crowd;
    const std::string _path;
    int _fd = -1;
    bool _watches_write = false;
    std::string _unread, _unsent, _corked;
};

}  // namespace load
