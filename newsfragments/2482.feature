``systemctl status pushd`` tells that the last reload was refused. If the watchdog ends the service, the journal shows which line of which view has blocked the reactor.
