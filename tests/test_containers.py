"""What deploy/ has for containers: its variables, ports, names and times agree with pushd's."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import yaml
from twisted.trial.unittest import SynchronousTestCase

from pushd.options.command_line import Options
from tests.containers.dockerfile import read_stages
from tests.support.systemd_machine import ROOT

DEPLOY = ROOT / "deploy"
PAGE = ROOT / "docs/containers.md"

# What a Secret holds, which is not in the manifests.
BROKER = "redis://redis:6379/0"

# Seconds beside --drain in which a daemon stops; as TimeoutStopSec= of the units says.
SLOW_CLIENTS = 30


def read_manifests() -> Iterator[dict[str, Any]]:
    """Return the objects of all manifests."""
    for path in sorted((DEPLOY / "kubernetes").glob("*.yaml")):
        yield from yaml.safe_load_all(path.read_text())


MANIFESTS = list(read_manifests())
PODS = [one for one in MANIFESTS if one["kind"] in ("Deployment", "StatefulSet")]
IMAGE = read_stages()[-1]
COMPOSE = yaml.safe_load((DEPLOY / "compose.yaml").read_text())


def options_of(variables: Mapping[str, str]) -> Options:
    """Return the options of a daemon in the image, with further variables."""
    environ = {**IMAGE.env, **variables}
    options = Options(
        {name: value for name, value in environ.items() if name.startswith("PUSHD_")},
        install_asyncio=lambda: None,
    )
    options.parseOptions([])
    return options


def variables_of(container: Mapping[str, Any]) -> dict[str, str]:
    """Return the variables of a container of a pod, without a folder that is not here."""
    return {
        one["name"]: one.get("value", BROKER)
        for one in container["env"]
        if one["name"] != "PUSHD_STATE"
    }


class ImageTests(SynchronousTestCase):
    def test_ports(self) -> None:
        """The image listens where it says so; its control port cannot be reached from outside."""
        settings = options_of({}).settings
        self.assertEqual(settings.listen, ("tcp:8080",))
        self.assertIn(("EXPOSE", "8080"), IMAGE.steps)
        self.assertEqual(options_of({}).warnings(), [])

    def test_no_shell(self) -> None:
        """Its entry point and its health check are programs of the environment, without a shell."""
        for command in (IMAGE.entrypoint, IMAGE.healthcheck):
            self.assertRegex(command[0], r"^/opt/pushd/bin/(twistd|pushdctl)$")

    def test_live_documented(self) -> None:
        """The health check for what restarts unhealthy containers needs no shell, either."""
        (check,) = re.findall(r"`healthcheck: (\{.*\})`", PAGE.read_text())
        self.assertEqual(yaml.safe_load(check), {"test": ["CMD", *IMAGE.healthcheck, "--live"]})


class ComposeTests(SynchronousTestCase):
    def setUp(self) -> None:
        """Read the service."""
        self.service = COMPOSE["services"]["pushd"]
        self.options = options_of(self.service["environment"])

    def test_grace(self) -> None:
        """Docker waits until the daemon has stopped in order."""
        grace = int(self.service["stop_grace_period"].removesuffix("s"))
        self.assertGreater(grace, self.options.settings.limits.drain + SLOW_CLIENTS)

    def test_names(self) -> None:
        """The control port answers to the service's name; the proxy is trusted by its network."""
        self.assertTrue(self.options.settings.control_hosts.includes("pushd:8081"))
        (network,) = COMPOSE["networks"]["default"]["ipam"]["config"]
        self.assertEqual(self.service["environment"]["PUSHD_TRUSTED_PROXY"], network["subnet"])
        self.assertIn("//redis:", self.service["environment"]["PUSHD_BROKER"])

    def test_mounts(self) -> None:
        """The files that are mounted are there."""
        for service in COMPOSE["services"].values():
            for volume in service.get("volumes", ()):
                self.assertTrue((DEPLOY / volume.split(":")[0]).exists(), volume)
        self.assertTrue((DEPLOY / self.service["build"]["context"] / "deploy/Dockerfile").exists())


class KubernetesTests(SynchronousTestCase):
    def test_grace(self) -> None:
        """A pod has the time of preStop, of --drain, and for slow clients."""
        self.assertEqual(len(PODS), 2)
        for one, pod, container in self.pods():
            before = container["lifecycle"]["preStop"]["sleep"]["seconds"]
            drain = options_of(variables_of(container)).settings.limits.drain
            needed = before + drain + SLOW_CLIENTS
            self.assertGreaterEqual(pod["terminationGracePeriodSeconds"], needed, one["kind"])

    def test_probes(self) -> None:
        """A pod is restarted if its reactor hangs; it has traffic while it is ready."""
        for _, _, container in self.pods():
            ports = {one["name"]: one["containerPort"] for one in container["ports"]}
            self.assertEqual(ports, {"public": 8080, "control": 8081})
            self.assertEqual(variables_of(container)["PUSHD_CONTROL"], "tcp:8081")
            paths = {"livenessProbe": "/healthz", "readinessProbe": "/readyz"}
            for probe, path in {**paths, "startupProbe": "/readyz"}.items():
                get = container[probe]["httpGet"]
                self.assertEqual((get["path"], get["port"]), (path, "control"))

    def test_names(self) -> None:
        """The control port answers to the name of its service, whose ports are those of the pod."""
        services = {one["metadata"]["name"]: one for one in MANIFESTS if one["kind"] == "Service"}
        self.assertEqual(set(services), {"pushd", "pushd-control"})
        for _, pod, container in self.pods():
            hosts = options_of(variables_of(container)).settings.control_hosts
            self.assertTrue(hosts.includes("pushd-control:8081"))
            names = {one["name"] for one in container["ports"]}
            targets = {one["spec"]["ports"][0]["targetPort"] for one in services.values()}
            self.assertEqual(targets, names)
            self.assertFalse(pod["enableServiceLinks"])

    def test_selectors(self) -> None:
        """Every object selects the pods."""
        labels = {"app.kubernetes.io/name": "pushd"}
        for one in PODS:
            self.assertEqual(one["spec"]["template"]["metadata"]["labels"], labels)
        for one in MANIFESTS:
            spec = one["spec"]
            selector = spec.get("podSelector") or spec["selector"]
            self.assertEqual(selector.get("matchLabels", selector), labels, one["kind"])

    def test_security(self) -> None:
        """No pod runs as root, gains privileges, or can write to its root."""
        for _, pod, container in self.pods():
            self.assertTrue(pod["securityContext"]["runAsNonRoot"])
            context = container["securityContext"]
            self.assertTrue(context["readOnlyRootFilesystem"])
            self.assertFalse(context["allowPrivilegeEscalation"])
            self.assertEqual(context["capabilities"], {"drop": ["ALL"]})

    def test_documented(self) -> None:
        """The page has every file, the image, and the sum that the manifests are made with."""
        text = PAGE.read_text()
        for _, _, container in self.pods():
            self.assertIn(f"--tag {container['image']} .\n", text)
            self.assertIn(f"docker push {container['image']}\n", text)
            self.assertIn(f"set image deployment/pushd {container['name']}=", text)
        for path in (DEPLOY / "kubernetes").iterdir():
            self.assertIn(f"`{path.name}`", text)
        seconds = re.findall(r"`preStop`, (\d+)\s+seconds|`PUSHD_DRAIN`, (\d+)\s+seconds", text)
        self.assertEqual([first or second for first, second in seconds], ["5", "20"])

    def pods(self) -> Iterator[tuple[dict[str, Any], dict[str, Any], dict[str, Any]]]:
        """Return each object that makes pods, the pod's specification, and its container."""
        for one in PODS:
            pod = one["spec"]["template"]["spec"]
            (container,) = pod["containers"]
            yield one, pod, container
