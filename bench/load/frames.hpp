// WebSocket frames of a client: its own are masked, the server's are not (RFC 6455 §5).
#pragma once

#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>

namespace load {

enum Opcode : uint8_t { TEXT = 1, BINARY = 2, CLOSE = 8, PING = 9, PONG = 10 };

struct Frame {
    uint8_t opcode;
    std::string_view payload;
};

enum class Cut { FRAME, INCOMPLETE, WRONG };

// Parse the frame at the start of `bytes`; `length` is its size, including the header.
inline Cut cut_frame(std::string_view bytes, Frame &frame, size_t &length) {
    if (bytes.size() < 2) return Cut::INCOMPLETE;
    const auto *head = reinterpret_cast<const uint8_t *>(bytes.data());
    // Every message fits into one frame, without extensions: FIN is set, RSV1 to RSV3 are not.
    if ((head[0] & 0xF0) != 0x80 || (head[1] & 0x80)) return Cut::WRONG;
    size_t start = 2, size = head[1];
    if (size == 126) {
        if (bytes.size() < 4) return Cut::INCOMPLETE;
        size = size_t(head[2]) << 8 | head[3];
        start = 4;
    } else if (size == 127) {
        return Cut::WRONG;  // No message of the benchmark has 64 KiB.
    }
    length = start + size;
    if (bytes.size() < length) return Cut::INCOMPLETE;
    frame = {uint8_t(head[0] & 0x0F), bytes.substr(start, size)};
    return Cut::FRAME;
}

// Append a masked frame to `out`.
inline void append_frame(std::string &out, uint8_t opcode, std::string_view payload) {
    static uint32_t seed = 0x9E3779B9;
    seed = seed * 1664525 + 1013904223;  // The masks must differ, but need not be secret.
    uint8_t mask[4];
    std::memcpy(mask, &seed, sizeof mask);
    out.push_back(char(0x80 | opcode));
    if (payload.size() < 126) {
        out.push_back(char(0x80 | payload.size()));
    } else {
        out.push_back(char(0x80 | 126));
        out.push_back(char(payload.size() >> 8));
        out.push_back(char(payload.size()));
    }
    out.append(reinterpret_cast<char *>(mask), sizeof mask);
    for (size_t at = 0; at < payload.size(); at++) out.push_back(char(payload[at] ^ mask[at % 4]));
}

}  // namespace load
