"""How much memory there is, by files as Linux shows them."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from pushd.options.machine import memory_size

MACHINE = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


class MemorySizeTests(SynchronousTestCase):
    def setUp(self) -> None:
        """Make a folder in place of /."""
        self.root = Path(tempfile.mkdtemp())
        self.addCleanup(shutil.rmtree, self.root)

    def write(self, name: str, text: str) -> None:
        """Write a file."""
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def test_machine(self) -> None:
        """Without cgroups, or with some that have no limit, it is the memory of the machine."""
        self.assertEqual(memory_size(self.root), MACHINE)
        self.write("proc/self/cgroup", "0::/user.slice\n")
        self.assertEqual(memory_size(self.root), MACHINE)
        self.write("sys/fs/cgroup/user.slice/memory.max", "max\n")
        self.assertEqual(memory_size(self.root), MACHINE)
        self.write("sys/fs/cgroup/user.slice/memory.max", f"{MACHINE * 2}\n")
        self.assertEqual(memory_size(self.root), MACHINE)
        self.assertLessEqual(memory_size(), MACHINE)

    def test_version_2(self) -> None:
        """The lowest limit of the cgroup and of those above it counts."""
        self.write("proc/self/cgroup", "0::/system.slice/pushd.service\n")
        self.write("sys/fs/cgroup/system.slice/pushd.service/memory.max", "4096000\n")
        self.assertEqual(memory_size(self.root), 4_096_000)
        self.write("sys/fs/cgroup/system.slice/memory.max", "2048000\n")
        self.assertEqual(memory_size(self.root), 2_048_000)

    def test_container(self) -> None:
        """In a container, the limit is that of the topmost folder."""
        self.write("proc/self/cgroup", "0::/\n")
        self.write("sys/fs/cgroup/memory.max", "1024000\n")
        self.assertEqual(memory_size(self.root), 1_024_000)

    def test_version_1(self) -> None:
        """Of the hierarchies of version 1, only that of the memory controller counts."""
        self.write("proc/self/cgroup", "12:cpu,cpuacct:/a\n4:memory:/docker/1f\n1:name=systemd:/\n")
        self.write("sys/fs/cgroup/memory/memory.limit_in_bytes", "3000000\n")
        self.write("sys/fs/cgroup/memory.limit_in_bytes", "1\n")
        self.assertEqual(memory_size(self.root), 3_000_000)
        self.write("sys/fs/cgroup/memory/docker/1f/memory.limit_in_bytes", "2000000\n")
        self.assertEqual(memory_size(self.root), 2_000_000)
