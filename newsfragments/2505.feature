A publication to tens of thousands of subscribers costs half of the CPU: those that are not reached within 50 ms keep being written to directly (19,500 subscribers: 11 µs each, was 20).
