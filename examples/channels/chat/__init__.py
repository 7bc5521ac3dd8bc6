"""The chat: rooms that are groups of Channels, and the same rooms as topics of pushd."""
