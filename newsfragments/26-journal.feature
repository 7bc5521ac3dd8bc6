Lines in the journal of systemd have the priority of their level: `journalctl -u pushd -p warning` shows warnings and errors.
