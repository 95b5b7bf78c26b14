# SPDX-License-Identifier: Apache-2.0
"""A pikvd of a test, in a directory of its own.

    with Daemon() as d:              # shm only, 64 MiB, two lanes
        subprocess.run([program("pikvctl"), "--address", d.address, "ping"])

What the environment says: PIKV_BUILD is the folder of the programs, relative
to the repository (default out/debug). A daemon that does not start, or does not
stop in order, is an AssertionError with its log.
"""

import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(
    os.path.abspath(__file__))))
START_S = 30
STOP_S = 30


def program(name):
    return os.path.join(ROOT, os.environ.get("PIKV_BUILD", "out/debug"), name)


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def clean_env(**more):
    """Nothing of the caller's that would change a pikv program."""
    env = {k: v for k, v in os.environ.items()
           if not k.startswith(("PIKVD_", "PIKV_ADDRESS", "NOTIFY_SOCKET"))}
    return {**env, **more}


class Daemon:
    """settings: {"dram.capacity": "256MiB"}, over those of every test. admin:
    serve HTTP on a free port. config: text of a configuration file."""

    def __init__(self, settings=None, admin=False, config=None):
        self.dir = tempfile.mkdtemp(prefix="pikvd-")
        self.socket = os.path.join(self.dir, "pikvd.sock")
        self.log_path = os.path.join(self.dir, "log")
        self.config_path = os.path.join(self.dir, "pikvd.json")
        self.address = "shm:" + self.socket
        self.admin_url = None
        self.process = None
        self.settings = {
            "listen.shm.path": self.socket,
            "listen.admin.enabled": "true" if admin else "false",
            "node.lanes": "2",
            "dram.capacity": "64MiB",
            "dram.prefault": "false",
        }
        if admin:
            port = free_port()
            self.settings["listen.admin.port"] = str(port)
            self.admin_url = f"http://127.0.0.1:{port}"
        self.settings.update(settings or {})
        self.has_config = config is not None
        if self.has_config:
            self.write_config(config)

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        self.remove()

    def write_config(self, text):
        with open(self.config_path, "w", encoding="utf-8") as f:
            f.write(text)

    def argv(self):
        argv = [program("pikvd")]
        if self.has_config:
            argv += ["--config", self.config_path]
        for key, value in self.settings.items():
            argv += ["--set", f"{key}={value}"]
        return argv

    def log(self):
        if not os.path.exists(self.log_path):
            return ""
        with open(self.log_path, encoding="utf-8", errors="replace") as f:
            return f.read()

    def start(self):
        """Returns when clients can connect."""
        assert self.process is None, "it runs"
        before = self.log().count(" started ")
        with open(self.log_path, "ab") as log:
            self.process = subprocess.Popen(
                self.argv(), stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                env=clean_env())
        end = time.monotonic() + START_S
        while self.log().count(" started ") == before:
            ended = self.process.poll() is not None
            if ended or time.monotonic() > end:
                status = self.process.poll()
                self.kill()
                raise AssertionError(
                    f"pikvd did not start ({status}):\n{self.log()}")
            time.sleep(0.01)

    def stop(self):
        """The orderly stop; its exit status must be 0."""
        self.process.send_signal(signal.SIGTERM)
        try:
            status = self.process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(
                f"pikvd did not stop:\n{self.log()}") from None
        self.process = None
        assert status == 0, f"pikvd stopped with {status}:\n{self.log()}"

    def kill(self):
        """kill -9; start() may follow."""
        if self.process:
            self.process.kill()
            self.process.wait()
            self.process = None

    def remove(self):
        """At the end: no process and no file stays."""
        try:
            if self.process and self.process.poll() is None:
                self.stop()
        finally:
            self.kill()
            shutil.rmtree(self.dir, ignore_errors=True)

    def stat(self, name):
        """One counter by its name in STAT."""
        out = subprocess.run(
            [program("pikvctl"), "--address", self.address, "-o", "json",
             "stat", name], stdout=subprocess.PIPE, env=clean_env(),
            timeout=START_S, check=True).stdout
        return json.loads(out)[name]
