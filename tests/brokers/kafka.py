"""Kafka brokers of the tests' own (KRaft, broker and controller in one), one or three: free ports, folders, ended with the tests."""

from __future__ import annotations

import base64
import os
import signal
import socket
import struct
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from kafka import KafkaConsumer, KafkaProducer
from kafka.admin import KafkaAdminClient

from tests.brokers.kafka_jars import java, kafka_jars
from tests.brokers.ports import free_port

START_S = 60.0
# A killed broker is let in again only after its old session: 9 s by default.
SESSION_MS = 1500
SMALL = ("-Xms64m", "-Xmx384m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1")  # starts soonest
FAST = ("-Xms256m", "-Xmx1g", "-XX:+UseG1GC")  # for figures
LOGGING = """
rootLogger.level = warn
rootLogger.appenderRef.out.ref = out
appender.out.type = Console
appender.out.name = out
appender.out.layout.type = PatternLayout
appender.out.layout.pattern = %d %p %c{1} %m%n
"""
SETTINGS = """
process.roles=broker,controller
node.id={number}
controller.quorum.bootstrap.servers={quorum}
controller.listener.names=CONTROLLER
log.dirs={folder}/data
offsets.topic.num.partitions=1
transaction.state.log.num.partitions=1
share.coordinator.state.topic.num.partitions=1
group.initial.rebalance.delay.ms=0
group.min.session.timeout.ms=500
auto.create.topics.enable=false
log.cleaner.dedupe.buffer.size=2097152
num.network.threads=2
num.io.threads=4
broker.session.timeout.ms={session}
broker.heartbeat.interval.ms=300
log.retention.check.interval.ms=86400000
"""
ALONE = """
offsets.topic.replication.factor=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
"""
IN_THREE = """
default.replication.factor=3
min.insync.replicas=2
offsets.topic.replication.factor=3
transaction.state.log.replication.factor=3
transaction.state.log.min.isr=2
replica.lag.time.max.ms=3000
"""


class Seat(NamedTuple):
    """Of one of several brokers. quorum: addresses of the controllers. voters: what a folder is prepared with. cluster: its id."""

    number: int
    controller: int
    quorum: str
    voters: str
    cluster: str


class KafkaBroker:
    """Started by the constructor; `stop` in any case. `extra`: further lines of its settings; `listeners`: further ones, name -> port.

    port, advertised: where it listens, and where it tells clients to connect, which may be a proxy. seat: one of several; `prepare` and
    `launch` it.
    """

    def __init__(
        self,
        folder: Path,
        listeners: dict[str, int] | None = None,
        extra: str = "",
        options: tuple[str, ...] = (),
        jvm: tuple[str, ...] = SMALL,
        port: int | None = None,
        advertised: int | None = None,
        seat: Seat | None = None,
    ) -> None:
        self.folder = folder
        self._jvm = jvm
        self._options = options
        self._seat = seat
        self.jars = kafka_jars()
        self.port = port or free_port()
        controller = seat.controller if seat else free_port()
        named = {"PLAINTEXT": self.port, **(listeners or {})}
        public, told = (_addresses(ports) for ports in (named, named | {"PLAINTEXT": advertised or self.port}))
        settings = SETTINGS.format(
            number=seat.number if seat else 1,
            quorum=seat.quorum if seat else f"127.0.0.1:{controller}",
            folder=folder,
            session=SESSION_MS,
        )
        settings += (IN_THREE if seat else ALONE) + extra
        settings += f"\nlisteners={public},CONTROLLER://127.0.0.1:{controller}\nadvertised.listeners={told}\n"
        (folder / "server.properties").write_text(settings)
        (folder / "log4j2.properties").write_text(LOGGING)
        self._process: subprocess.Popen[bytes] | None = None
        if seat is None:
            self.prepare()
            try:
                self.start()
            except BaseException:
                self.kill()  # one that does not answer in time goes on starting
                raise

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start it (again) over what its files hold, and wait until it answers for itself."""
        self.launch()
        self.wait_for(1)

    def launch(self) -> None:
        command = [*self._java("kafka.Kafka"), str(self.folder / "server.properties")]
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True)

    def wait_for(self, brokers: int) -> None:
        """Until it knows so many brokers, itself among them."""
        assert self._process is not None
        deadline = time.monotonic() + START_S
        while known_brokers(self.port) < brokers:
            assert self._process.poll() is None, self.tail()
            assert time.monotonic() < deadline, f"Kafka on port {self.port} does not know {brokers} broker(s): {self.tail()}"
            time.sleep(0.05)

    def tail(self) -> str:
        return (self.folder / "log").read_text()[-3000:]

    def kill(self) -> None:
        """kill -9."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        self._end(signal.SIGTERM)

    def freeze(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def producer(self, **how: object) -> KafkaProducer:
        """A plain client, as a foreign application has one."""
        return KafkaProducer(bootstrap_servers=[self.address], **how)

    def consumer(self, *topics: str, **how: object) -> KafkaConsumer:
        return KafkaConsumer(*topics, bootstrap_servers=[self.address], **how)

    def admin(self, **how: object) -> KafkaAdminClient:
        return KafkaAdminClient(bootstrap_servers=[self.address], **how)

    def _java(self, main: str) -> list[str]:
        logging = f"-Dlog4j2.configurationFile=file:{self.folder / 'log4j2.properties'}"
        return [java(), *self._jvm, logging, "-cp", f"{self.jars}/*", main]

    def prepare(self) -> None:
        """Write what an empty folder needs."""
        seat = self._seat
        command = [*self._java("kafka.tools.StorageTool"), "format", "-t", seat.cluster if seat else random_id()]
        command += ["--initial-controllers", seat.voters] if seat else ["--standalone"]
        command += ["-c", str(self.folder / "server.properties"), *self._options]
        ran = subprocess.run(command, capture_output=True, text=True, timeout=START_S, check=False)
        assert ran.returncode == 0, ran.stdout + ran.stderr

    def _end(self, how: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.send_signal(signal.SIGCONT)
        process.send_signal(how)
        try:
            process.wait(START_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(START_S)


class KafkaCluster:
    """Three brokers, started by the constructor; `min.insync.replicas` is 2. `stop` in any case.

    Killed and frozen is the one that leads the first partition of `topic` at that moment.
    """

    def __init__(self, folder: Path, topic: str, jvm: tuple[str, ...] = SMALL) -> None:
        self._topic = topic
        numbers, cluster = (1, 2, 3), random_id()
        controllers = {number: free_port() for number in numbers}
        quorum = ",".join(f"127.0.0.1:{port}" for port in controllers.values())
        voters = ",".join(f"{number}@127.0.0.1:{port}:{random_id()}" for number, port in controllers.items())
        self.brokers = []
        for number in numbers:
            own = folder / str(number)
            own.mkdir()
            self.brokers.append(KafkaBroker(own, jvm=jvm, seat=Seat(number, controllers[number], quorum, voters, cluster)))
        with ThreadPoolExecutor(3) as pool:
            list(pool.map(KafkaBroker.prepare, self.brokers))
        self._victim = self.brokers[0]
        try:
            for broker in self.brokers:
                broker.launch()
            self._wait_for_all()
        except BaseException:
            self.stop()
            raise

    @property
    def servers(self) -> str:
        """As a configuration has them."""
        return ", ".join(f'"{broker.address}"' for broker in self.brokers)

    def kill(self) -> None:
        self._victim = self._leader()
        self._victim.kill()

    def start(self) -> None:
        """Start the one that was killed."""
        self._victim.launch()
        self._wait_for_all()

    def freeze(self) -> None:
        self._victim = self._leader()
        self._victim.freeze()

    def thaw(self) -> None:
        self._victim.thaw()

    def _leader(self) -> KafkaBroker:
        with self.brokers[0].admin() as admin:
            (found,) = admin.describe_topics([self._topic])
        leader: int = next(item["leader_id"] for item in found["partitions"] if item["partition_index"] == 0)
        return self.brokers[leader - 1]

    def stop(self) -> None:
        """All at once, and not in order: what they hold is a test's."""
        for broker in self.brokers:
            broker.kill()

    def _wait_for_all(self) -> None:
        for broker in self.brokers:
            broker.wait_for(len(self.brokers))


def random_id() -> str:
    """Of a cluster or a folder, as the broker likes it: 22 characters, the first no `-`."""
    return "A" + base64.urlsafe_b64encode(os.urandom(16)).decode().rstrip("=")[1:]


def _addresses(ports: dict[str, int]) -> str:
    return ",".join(f"{name}://127.0.0.1:{port}" for name, port in ports.items())


def known_brokers(port: int) -> int:
    """How many brokers the answer to a Metadata request (version 1, no topics) names; 0 without an answer."""
    request = struct.pack(">hhih", 3, 1, 1, 4) + b"test" + struct.pack(">i", 0)
    try:
        with socket.create_connection(("127.0.0.1", port), 2.0) as raw:
            raw.settimeout(2.0)
            raw.sendall(struct.pack(">i", len(request)) + request)
            with raw.makefile("rb") as stream:
                body = stream.read(int.from_bytes(stream.read(4), "big"))
    except OSError:
        return 0
    return int.from_bytes(body[4:8], "big") if len(body) >= 8 else 0
