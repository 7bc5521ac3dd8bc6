"""Sizes in bytes: their units, their range, and how they are written."""

from __future__ import annotations

from functools import partial

from twisted.trial.unittest import SynchronousTestCase

from pushd.options.sizes import ShareOfMemory, Size, round_size, write_size


class SizeTests(SynchronousTestCase):
    def test_units(self) -> None:
        """KB, MB, GB and TB are powers of 1000; KiB, MiB, GiB and TiB are powers of 1024."""
        parse = Size(0, 1 << 50)
        for given, size in (
            ("0", 0),
            ("1048576", 1 << 20),
            ("7B", 7),
            ("10KB", 10_000),
            ("10MB", 10_000_000),
            ("10GB", 10_000_000_000),
            ("1TB", 10**12),
            ("64KiB", 65_536),
            ("1MiB", 1 << 20),
            ("2GiB", 2 << 30),
            ("1TiB", 1 << 40),
            ("10mb", 10_000_000),
            ("64kib", 65_536),
            ("5 MiB", 5 << 20),
        ):
            self.assertEqual(parse(given), size, given)

    def test_bad(self) -> None:
        """The error for everything else has the range and examples."""
        for given in (
            *("", "B", "MB", "-1", "+1", "1.5MB", "1e3", "0x10", "1_000", "many", "٣", "²"),
            *("64K", "64M", "64Ki", "10XB", "10 M B", "1  MB", " 1", "1 ", "1\n", "1iB"),
            *("9" * 16, "9" * 5000, "11MB", "1023"),
        ):
            with self.assertRaises(ValueError) as raised:
                Size(1024, 10_485_760)(given)
            self.assertEqual(
                str(raised.exception),
                "must be a size from 1KiB to 10MiB, such as 1048576, 10MB or 64KiB",
                given,
            )

    def test_range(self) -> None:
        """The range includes both ends."""
        self.assertEqual([Size(1, 1024)(given) for given in ("1", "1KiB")], [1, 1024])

    def test_written(self) -> None:
        """A size is written with the largest binary unit that divides it, and can be read back."""
        for size, text in (
            (0, "0"),
            (1000, "1000"),
            (1024, "1KiB"),
            (1 << 20, "1MiB"),
            (3 << 19, "1536KiB"),
            (64 << 20, "64MiB"),
            (1 << 30, "1GiB"),
            (1 << 40, "1TiB"),
        ):
            self.assertEqual(write_size(size), text)
            self.assertEqual(Size(0, 1 << 40)(text), size)

    def test_rounded(self) -> None:
        """For people, a size is rounded to three digits."""
        for size, text in (
            (0, "0 bytes"),
            (1023, "1023 bytes"),
            (1536, "1.5 KiB"),
            (12_662_634_496, "11.8 GiB"),
            (1 << 44, "16 TiB"),
        ):
            self.assertEqual(round_size(size), text)

    def test_share_of_memory(self) -> None:
        """``auto`` is half of the memory, within the range; other sizes are as given."""
        for memory, share in ((1000, 500), (10, 100), (1 << 30, 1 << 20)):
            parse = ShareOfMemory(100, 1 << 20, partial(int, memory))
            self.assertEqual((parse("auto"), parse("64KiB")), (share, 1 << 16))
        with self.assertRaisesRegex(ValueError, r"from 100 to 1MiB, such as .*, or auto$"):
            ShareOfMemory(100, 1 << 20)("half")
