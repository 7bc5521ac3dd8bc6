`twistd pushd` serves views over HTTP and WebSocket at the same URL, the static client, and a demo that pushes ten messages, half a second apart.
