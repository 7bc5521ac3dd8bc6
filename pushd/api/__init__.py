"""The URLs that pushd itself serves: subscribe, publish, schedule, list, health."""
