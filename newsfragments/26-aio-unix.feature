`pushd.aio.Client` takes `unix:` and a path for ports on Unix sockets, as `pushdctl` does.
