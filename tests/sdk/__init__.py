"""The SDKs of Centrifugo, as they are published, against a daemon in a process of its own."""
