"""The client protocol and the HTTP API of Centrifugo: one more way to topics, for its SDKs."""
