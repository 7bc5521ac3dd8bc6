A delivery over TLS takes twice the CPU of one without, where it took 2.3 times as much.
