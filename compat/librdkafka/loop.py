"""
Consume, transform, produce in transactions, for compat/transactions. `loop.py ADDRESS INPUT OUTPUT GROUP MEMBER [PROTOCOL]`

One producer per member; the group's generation fences (KIP-447). The lines it prints are those of compat/transactions/loop.ts.

`metadata.recovery.strategy`: with the default, `rebootstrap`, librdkafka 2.16 drops its brokers when none can be reached, and its table of
coordinators goes on naming one of these: `send_offsets_to_transaction` then neither sends its request nor gives up
(https://github.com/confluentinc/librdkafka/issues/5511).
"""

import sys
import threading

from confluent_kafka import Consumer, KafkaException, Producer, TopicPartition

RECORDS_MAX = 25
ABORT_EVERY = 7
WAIT_S = 30

address, topic, output, group, member = sys.argv[1:6]
protocol = sys.argv[6] if len(sys.argv) > 6 else "classic"
stopping = threading.Event()
threading.Thread(target=lambda: (sys.stdin.read(), stopping.set()), daemon=True).start()


def say(line):
    print(line, flush=True)


def new_producer():
    producer = Producer(
        {
            "bootstrap.servers": address,
            "transactional.id": member,
            "transaction.timeout.ms": 20_000,
            "metadata.recovery.strategy": "none",
            "linger.ms": 2,
            "reconnect.backoff.max.ms": 200,
        }
    )
    until_done(lambda: producer.init_transactions(WAIT_S))
    return producer


def until_done(work):
    """Calls again what says that this is what to do."""
    while True:
        try:
            return work()
        except KafkaException as error:
            if not error.args[0].retriable():
                raise
            say(f"again {error}")


def rewind(consumer, messages):
    """To the first of these, in the partitions that it still has."""
    left = {place.partition for place in consumer.assignment()}
    for message in messages:
        if message.partition() in left:
            left.discard(message.partition())
            consumer.seek(TopicPartition(topic, message.partition(), message.offset()))


class Failed(Exception):
    pass


def transact(producer, consumer, messages, number):
    """Whether it was committed."""
    failures = []
    producer.begin_transaction()
    offsets = {}
    for message in messages:
        value = message.value() + f"|{member}.{number}".encode()
        producer.produce(
            output,
            value,
            key=message.key(),
            partition=message.partition(),
            on_delivery=lambda error, _: failures.append(error) if error else None,
        )
        offsets[message.partition()] = message.offset() + 1
    places = [TopicPartition(topic, partition, offset) for partition, offset in offsets.items()]
    until_done(lambda: producer.send_offsets_to_transaction(places, consumer.consumer_group_metadata(), WAIT_S))
    left = producer.flush(WAIT_S)
    if failures or left > 0:
        raise Failed(f"{failures} {left}")
    say(f"sent {len(messages)}")
    if number % ABORT_EVERY == 0:
        until_done(lambda: producer.abort_transaction(WAIT_S))
        say(f"aborted {len(messages)}")
        return False
    say("ending")
    until_done(lambda: producer.commit_transaction(WAIT_S))
    say(f"committed {len(messages)}")
    return True


settings = {
    "bootstrap.servers": address,
    "group.id": group,
    "group.protocol": protocol,
    "isolation.level": "read_committed",
    "enable.auto.commit": False,
    "auto.offset.reset": "earliest",
    "metadata.recovery.strategy": "none",
    "reconnect.backoff.max.ms": 200,
}
if protocol == "classic":
    settings |= {"session.timeout.ms": 6000, "heartbeat.interval.ms": 500}
transactions = 0


def session():
    """Until it is to stop. Raises if the producer is of no use any more."""
    global transactions
    producer = new_producer()
    consumer = Consumer(settings)
    consumer.subscribe([topic])
    try:
        while not stopping.is_set():
            messages = [message for message in consumer.consume(RECORDS_MAX, 0.2) if message.error() is None]
            if not messages:
                continue
            transactions += 1
            try:
                committed = transact(producer, consumer, messages, transactions)
            except (KafkaException, Failed) as error:
                say(f"again {error}")
                until_done(lambda: producer.abort_transaction(WAIT_S))
                committed = False
            if not committed:
                rewind(consumer, messages)
    finally:
        consumer.close()


while not stopping.is_set():
    try:
        session()
    except KafkaException as error:
        say(f"again {error}")
