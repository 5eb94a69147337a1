"""
The client's side of compat/driver.ts for Python: reads one JSON request per line, calls the function of that name, and writes one
JSON answer per line. Also what all Python clients need: bytes in base64, and a group member that polls in a thread.
"""

import base64
import json
import sys
import threading
import traceback


def encode(data):
    return None if data is None else base64.b64encode(data).decode()


def decode(text):
    return None if text is None else base64.b64decode(text)


def headers_of(record):
    return [(name, decode(value)) for name, value in record["headers"]]


def record_of(partition, offset, key, value, headers, timestamp):
    return {
        "partition": partition,
        "offset": offset,
        "key": encode(key),
        "value": encode(value),
        "headers": [[name, encode(data)] for name, data in headers or []],
        "timestamp": timestamp,
    }


def answer(line, operations):
    """The answer to one request as a line."""
    request = json.loads(line)
    try:
        return json.dumps({"result": operations[request.pop("op")](**request)})
    except Exception as error:
        traceback.print_exc()
        return json.dumps({"error": f"{type(error).__name__}: {error}"})


def serve(operations):
    """Answers requests until standard input ends."""
    for line in sys.stdin:
        print(answer(line, operations), flush=True)


class Member:
    """
    A consumer that a thread polls until it leaves. `poll(consumer)` gives a list of (partition, offset); `assigned` a list of partitions.
    Who commits takes the lock: not every client may be used by two threads at once.
    """

    def __init__(self, consumer, poll, assigned):
        self.consumer = consumer
        self.lock = threading.Lock()
        self._poll = poll
        self._assigned = assigned
        self._seen = []
        self._leaving = threading.Event()
        self._failure = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self):
        try:
            while not self._leaving.is_set():
                with self.lock:
                    self._seen += self._poll(self.consumer)
                # Gives the other thread its turn at the lock.
                self._leaving.wait(0.01)
        except Exception as error:
            traceback.print_exc()
            self._failure = error

    def assigned(self):
        self._check()
        return sorted(self._assigned(self.consumer))

    def received(self):
        self._check()
        return [f"{partition}:{offset}" for partition, offset in list(self._seen)]

    def stop(self):
        self._leaving.set()
        self._thread.join()
        self._check()

    def _check(self):
        if self._failure is not None:
            raise self._failure


members = {}

#: The operations that are the same for all clients with a `Member`.
member_operations = {
    "assigned": lambda member: members[member].assigned(),
    "received": lambda member: members[member].received(),
}
