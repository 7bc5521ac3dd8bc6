"""A daemon that is attacked, and what is seen of it from outside."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from statistics import median
from time import monotonic, sleep

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.daemon_process import DaemonProcess
from tests.live.attacker import PATIENCE, Attacker
from tests.live.bystander import Bystander, Echo
from tests.live.vitals import Vitals

HERE = Path(__file__).parent
VIEWS = ("--views", "attack_views:views")

MIB = 1 << 20

# How much the daemon may compute for others while a bystander's word waits, in seconds: usually,
# and at worst. See Echo for what is counted; with fewer than so many there is nothing usual.
USUALLY = 0.05
AT_WORST = 1.0
ENOUGH = 20

_log = logging.getLogger(__name__)


@dataclass
class Damage:
    """What an attack has cost its victim."""

    #: Bytes of memory at the worst moment, above those before.
    memory: int = 0
    #: Seconds of computing.
    cpu: float = 0
    #: Descriptors that are open still, above those before.
    descriptors: int = 0
    #: How another client was served meanwhile.
    echoes: list[Echo] = field(default_factory=list)

    @property
    def usually(self) -> float:
        """What an echo usually took, in seconds of the daemon's computing."""
        return median(echo.took for echo in self.echoes)

    @property
    def at_worst(self) -> float:
        """What was done for others at most before a word of the bystander was served, likewise."""
        return max(echo.waited for echo in self.echoes)

    def __str__(self) -> str:
        return (
            f"{self.memory / MIB:+.1f} MiB, {self.cpu:.2f} s of CPU, "
            f"{self.descriptors:+d} descriptors, {len(self.echoes)} echoes: "
            f"usually {self.usually * 1e3:.1f} ms of CPU, at worst {self.at_worst * 1e3:.1f} ms"
        )

    def assert_bounded(self, *, memory: int = 8 * MIB, cpu: float = 3.0) -> None:
        """Prove that it was not much, and that others were served meanwhile."""
        assert self.memory <= memory, str(self)
        assert self.cpu <= cpu, str(self)
        assert self.descriptors <= 0, str(self)
        assert len(self.echoes) < ENOUGH or self.usually <= USUALLY, str(self)
        assert self.at_worst <= AT_WORST, str(self)


@contextmanager
def watched(daemon: DaemonProcess) -> Iterator[Damage]:
    """Watch a daemon from outside, and serve its other client, while it is attacked.

    Afterwards it is given time to let go of what it holds.
    """
    vitals, damage = Vitals(daemon.pid), Damage()
    descriptors = wait_until_steady(vitals)
    with Bystander(url_of(daemon), daemon.pid) as bystander:
        vitals.forget_peak()
        memory, cpu, start = vitals.memory, vitals.cpu, monotonic()
        yield damage
        seconds = monotonic() - start
        damage.cpu = vitals.cpu - cpu
        damage.memory = vitals.peak - memory
        damage.echoes = bystander.leave()
    deadline = monotonic() + PATIENCE
    while vitals.descriptors > descriptors and monotonic() < deadline:
        sleep(0.05)
    damage.descriptors = vitals.descriptors - descriptors
    name = os.environ.get("PYTEST_CURRENT_TEST", "?").rpartition("::")[2]
    _log.info("%s: %s, in %.1f s", name, damage, seconds)


def wait_until_steady(vitals: Vitals) -> int:
    """Wait until nobody of the attack before is left, and give how many descriptors are open."""
    last = vitals.descriptors
    for _ in range(40):
        sleep(0.1)
        if (now := vitals.descriptors) == last:
            break
        last = now
    return last


def url_of(daemon: DaemonProcess) -> str:
    """The address of a daemon's first door, with or without TLS."""
    return daemon.wait_for(r"listening on (https?://\S+)")[1]


def control_url_of(daemon: DaemonProcess) -> str:
    """The address of a daemon's control port."""
    return daemon.wait_for(r"control port listening on (http://\S+)")[1]


def seconds_of(daemon: DaemonProcess, attacker: Attacker, path: str, code: int) -> float:
    """How long a WebSocket was open, by the daemon's own clock, once it has ended like this."""
    return float(daemon.wait_for(rf":{attacker.port} {path} closed {code} after (\S+) s")[1])


def assert_cut(daemon: DaemonProcess, attacker: Attacker, path: str, code: int) -> None:
    """Prove that the daemon has closed with this code, and gave up on the connection 5 s later.

    Nobody here answers a ping: who is not cut then is cut after 35 s.
    """
    assert 4.9 < seconds_of(daemon, attacker, path, code) < 30


@contextmanager
def running(*args: str, directory: Path = HERE) -> Iterator[DaemonProcess]:
    """Run a daemon with the views that are attacked; prove that it stood and ended in order."""
    with DaemonProcess([*VIEWS, *args], directory=directory) as daemon:
        yield daemon
    log = "\n".join(daemon.log)
    # In order, twistd ends itself by the signal that it was asked with.
    assert daemon.stop() == 0, log
    assert "Traceback" not in log, log
    assert "Unhandled" not in log, log


def make_tls_endpoint(folder: Path) -> str:
    """Make a key and a certificate for this machine, and the endpoint that uses them."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    address = x509.IPAddress(ip_address("127.0.0.1"))
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost"), address]), False)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    form = serialization.PrivateFormat.PKCS8
    secret = key.private_bytes(pem, form, serialization.NoEncryption())
    (folder / "key.pem").write_bytes(secret)
    (folder / "certificate.pem").write_bytes(certificate.public_bytes(pem))
    files = f"privateKey={folder}/key.pem:certKey={folder}/certificate.pem"
    return f"ssl:0:{files}:interface=127.0.0.1"
