A delivery over TLS takes 1.6 times the CPU of one without, where it took 2.3 times as much, and an echo over wss 0.94 times what it took.
