"""kafka-python: the steps of compat/driver.ts. `main.py ADDRESS`"""

import sys
import time

from driver import Member, decode, headers_of, member_operations, members, record_of, serve
from kafka import KafkaConsumer, KafkaProducer, TopicPartition
from kafka.admin import KafkaAdminClient

base = {"bootstrap_servers": sys.argv[1]}
admin = KafkaAdminClient(**base)


def create(topic, partitions):
    admin.create_topics({topic: {"num_partitions": partitions, "replication_factor": 1}})


def remove(topic):
    admin.delete_topics([topic])


def topics():
    return admin.list_topics()


def groups():
    return [group["group_id"] for group in admin.list_groups()]


def produce(topic, codec, records):
    compression = None if codec == "none" else codec
    producer = KafkaProducer(
        **base,
        acks="all",
        enable_idempotence=True,
        compression_type=compression,
        max_request_size=5_000_000,
        linger_ms=20,
        max_block_ms=5_000,
    )
    try:
        sent = [
            producer.send(
                topic,
                partition=record["partition"],
                key=decode(record["key"]),
                value=decode(record["value"]),
                headers=headers_of(record),
                timestamp_ms=record.get("timestamp"),
            )
            for record in records
        ]
        for future in sent:
            future.get(30)
    finally:
        producer.close()


def taken(record):
    return record_of(record.partition, record.offset, record.key, record.value, record.headers, record.timestamp)


def polled(consumer, timeout_ms):
    return [record for records in consumer.poll(timeout_ms).values() for record in records]


def read(topic, partitions, count):
    consumer = KafkaConsumer(**base, group_id=None, fetch_max_wait_ms=100)
    places = [TopicPartition(topic, partition) for partition in range(partitions)]
    consumer.assign(places)
    consumer.seek_to_beginning(*places)
    found = []
    deadline = time.monotonic() + 30
    while len(found) < count and time.monotonic() < deadline:
        found += polled(consumer, 1000)
    consumer.close()
    return [taken(record) for record in found]


def readAt(topic, partition, timestamp):
    consumer = KafkaConsumer(**base, group_id=None, fetch_max_wait_ms=100)
    place = TopicPartition(topic, partition)
    consumer.assign([place])
    consumer.seek(place, consumer.offsets_for_times({place: timestamp})[place].offset)
    found = []
    deadline = time.monotonic() + 30
    while not found and time.monotonic() < deadline:
        found = polled(consumer, 1000)
    consumer.close()
    return taken(found[0])


def join(member, group, topic, protocol):
    consumer = KafkaConsumer(
        topic,
        **base,
        group_id=group,
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        heartbeat_interval_ms=300,
        fetch_max_wait_ms=100,
    )

    def poll(consumer):
        # Not much shorter: this client forgets a rebalance when the time is over in the middle of it.
        return [(record.partition, record.offset) for record in polled(consumer, 1000)]

    members[member] = Member(consumer, poll, lambda consumer: [place.partition for place in consumer.assignment()])


def commit(member):
    with members[member].lock:
        members[member].consumer.commit()


def leave(member):
    left = members.pop(member)
    left.stop()
    left.consumer.close()


serve({**member_operations, **{f.__name__: f for f in (create, remove, topics, groups, produce, read, readAt, join, commit, leave)}})
