// One browser: it connects, asks for a WebSocket, reads frames, answers pings, says goodbye.
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
    // Send text; more than one message is sent in one piece, by what is `corked` before.
    void send(std::string_view text);
    void cork(std::string_view text);
    // Begin the closing handshake, which the server ends by closing the connection.
    void leave(uint16_t code);
    // The kernel has news of the socket.
    void stir(uint32_t events);

    const uint32_t number;
    Stage stage = Stage::IDLE;
    // How many messages came, and since when the next is waited for: for the workload.
    uint32_t got = 0;
    int64_t since = 0;
    // How often the server has pinged us, and the code of its close frame; 0 before it.
    uint32_t pings = 0;
    uint16_t code = 0;

  private:
    std::string handshake() const;
    void read();
    // Take what can be taken of these bytes, and give how many they were.
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
