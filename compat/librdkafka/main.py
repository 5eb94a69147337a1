"""librdkafka through confluent-kafka: the steps of compat/driver.ts. `main.py ADDRESS`"""

import sys
import time

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic
from driver import Member, decode, headers_of, member_operations, members, record_of, serve

base = {"bootstrap.servers": sys.argv[1]}
admin = AdminClient(base)


def create(topic, partitions):
    admin.create_topics([NewTopic(topic, partitions, 1)])[topic].result(30)


def remove(topic):
    admin.delete_topics([topic])[topic].result(30)


def topics():
    return list(admin.list_topics(timeout=30).topics)


def groups():
    return [group.group_id for group in admin.list_consumer_groups().result(30).valid]


def produce(topic, codec, records):
    producer = Producer(
        {**base, "enable.idempotence": True, "compression.type": codec, "message.max.bytes": 5_000_000, "linger.ms": 20, "topic.metadata.propagation.max.ms": 1000}
    )
    errors = []
    for record in records:
        producer.produce(
            topic,
            partition=record["partition"],
            key=decode(record["key"]),
            value=decode(record["value"]),
            headers=headers_of(record),
            timestamp=record.get("timestamp", 0),
            on_delivery=lambda error, _: errors.append(error) if error is not None else None,
        )
    if producer.flush(60) > 0:
        raise TimeoutError("records were not delivered")
    if errors:
        raise KafkaException(errors[0])


def reader():
    return Consumer({**base, "group.id": "reader", "enable.auto.commit": False, "fetch.wait.max.ms": 100})


def polled(consumer, timeout):
    message = consumer.poll(timeout)
    if message is None:
        return None
    if message.error() is not None:
        raise KafkaException(message.error())
    return message


def taken(message):
    return record_of(
        message.partition(), message.offset(), message.key(), message.value(), message.headers(), message.timestamp()[1]
    )


def read(topic, partitions, count):
    consumer = reader()
    consumer.assign([TopicPartition(topic, partition, OFFSET_BEGINNING) for partition in range(partitions)])
    found = []
    deadline = time.monotonic() + 30
    while len(found) < count and time.monotonic() < deadline:
        message = polled(consumer, 1)
        if message is not None:
            found.append(taken(message))
    consumer.close()
    return found


def readAt(topic, partition, timestamp):
    consumer = reader()
    [place] = consumer.offsets_for_times([TopicPartition(topic, partition, timestamp)], timeout=30)
    consumer.assign([TopicPartition(topic, partition, 0)])
    consumer.poll(0)
    consumer.seek(place)
    message = polled(consumer, 30)
    consumer.close()
    return taken(message)


def join(member, group, topic, protocol):
    settings = {
        **base,
        "group.id": group,
        "group.protocol": protocol,
        "enable.auto.commit": False,
        "auto.offset.reset": "earliest",
        "fetch.wait.max.ms": 100,
    }
    if protocol == "classic":
        settings["heartbeat.interval.ms"] = 300
    consumer = Consumer(settings)
    consumer.subscribe([topic])

    def poll(consumer):
        message = polled(consumer, 0.05)
        return [] if message is None else [(message.partition(), message.offset())]

    members[member] = Member(consumer, poll, lambda consumer: [place.partition for place in consumer.assignment()])


def commit(member):
    with members[member].lock:
        members[member].consumer.commit(asynchronous=False)


def leave(member):
    left = members.pop(member)
    left.stop()
    left.consumer.close()


serve({**member_operations, **{f.__name__: f for f in (create, remove, topics, groups, produce, read, readAt, join, commit, leave)}})
