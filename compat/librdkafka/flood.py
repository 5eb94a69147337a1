"""
Heavy traffic with an idempotent producer, for compat/crash.ts. `flood.py ADDRESS TOPIC PARTITIONS RATE`

Record n goes to partition n % PARTITIONS and has the value "n:xxx…". For each acknowledged one a line `n offset` is printed. When
standard input ends it stops, waits for what is under way, and ends.
"""

import sys
import threading
import time

from confluent_kafka import KafkaException, Producer

address, topic, partitions, rate = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
stopping = threading.Event()
threading.Thread(target=lambda: (sys.stdin.read(), stopping.set()), daemon=True).start()


def fatal(error):
    print(f"librdkafka: {error}", file=sys.stderr, flush=True)


producer = Producer(
    {
        "bootstrap.servers": address,
        "enable.idempotence": True,
        "linger.ms": 5,
        "reconnect.backoff.ms": 20,
        "reconnect.backoff.max.ms": 200,
        "queue.buffering.max.messages": 20_000,
        "error_cb": fatal,
    }
)


def delivered(number):
    def callback(error, message):
        if error is None:
            sys.stdout.write(f"{number} {message.offset()}\n")
        else:
            fatal(error)

    return callback


number = 0
padding = "x" * 100
start = time.monotonic()
while not stopping.is_set():
    if number > (time.monotonic() - start) * rate:
        sys.stdout.flush()
        producer.poll(0.005)
        continue
    try:
        producer.produce(topic, f"{number}:{padding}", partition=number % partitions, on_delivery=delivered(number))
        number += 1
    except BufferError:
        sys.stdout.flush()
        # What could not be sent meanwhile is not made up for.
        start = time.monotonic() - number / rate
        producer.poll(0.05)
    producer.poll(0)
left = producer.flush(60)
sys.stdout.flush()
if left > 0:
    raise KafkaException(f"{left} records are still under way")
