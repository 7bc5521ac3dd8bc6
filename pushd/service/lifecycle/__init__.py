"""The life of the daemon: started, restored, reloaded, drained and stopped."""
