"""A Kafka broker of the tests' own (KRaft, broker and controller in one): free ports, a folder of its own, ended with the tests."""

from __future__ import annotations

import base64
import os
import signal
import socket
import struct
import subprocess
import time
from pathlib import Path

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
node.id=1
controller.quorum.bootstrap.servers=127.0.0.1:{controller}
controller.listener.names=CONTROLLER
log.dirs={folder}/data
offsets.topic.replication.factor=1
offsets.topic.num.partitions=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=1
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
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


class KafkaBroker:
    """Started by the constructor; `stop` in any case. `extra`: further lines of its settings; `listeners`: further ones, name -> port."""

    def __init__(
        self,
        folder: Path,
        listeners: dict[str, int] | None = None,
        extra: str = "",
        options: tuple[str, ...] = (),
        jvm: tuple[str, ...] = SMALL,
    ) -> None:
        self.folder = folder
        self._jvm = jvm
        self.jars = kafka_jars()
        self.port, controller = free_port(), free_port()
        named = {"PLAINTEXT": self.port, **(listeners or {})}
        public = ",".join(f"{name}://127.0.0.1:{port}" for name, port in named.items())
        settings = SETTINGS.format(controller=controller, folder=folder, session=SESSION_MS) + extra
        settings += f"\nlisteners={public},CONTROLLER://127.0.0.1:{controller}\nadvertised.listeners={public}\n"
        (folder / "server.properties").write_text(settings)
        (folder / "log4j2.properties").write_text(LOGGING)
        self._process: subprocess.Popen[bytes] | None = None
        self._format(options)
        self.start()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start it (again) over what its files hold, and wait until it answers for itself."""
        command = [*self._java("kafka.Kafka"), str(self.folder / "server.properties")]
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True)
        deadline = time.monotonic() + START_S
        while not answers_metadata(self.port):
            assert self._process.poll() is None, self.tail()
            assert time.monotonic() < deadline, f"Kafka does not answer on port {self.port}: {self.tail()}"
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

    def _format(self, options: tuple[str, ...]) -> None:
        cluster = "A" + base64.urlsafe_b64encode(os.urandom(16)).decode().rstrip("=")[1:]
        command = [*self._java("kafka.tools.StorageTool"), "format", "--standalone", "-t", cluster]
        command += ["-c", str(self.folder / "server.properties"), *options]
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


def answers_metadata(port: int) -> bool:
    """Whether a Metadata request (version 1, no topics) is answered with a broker and a controller."""
    request = struct.pack(">hhih", 3, 1, 1, 4) + b"test" + struct.pack(">i", 0)
    try:
        with socket.create_connection(("127.0.0.1", port), 2.0) as raw:
            raw.settimeout(2.0)
            raw.sendall(struct.pack(">i", len(request)) + request)
            with raw.makefile("rb") as stream:
                body = stream.read(int.from_bytes(stream.read(4), "big"))
    except OSError:
        return False
    return len(body) >= 8 and int.from_bytes(body[4:8], "big") > 0
