"""aiokafka: the steps of compat/driver.ts, in one event loop. `main.py ADDRESS`"""

import asyncio
import json
import sys
import traceback

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import for_code
from driver import decode, headers_of, record_of

base = {"bootstrap_servers": sys.argv[1]}


async def with_admin(work):
    admin = AIOKafkaAdminClient(**base)
    await admin.start()
    try:
        return await work(admin)
    finally:
        await admin.close()


def check(response, codes):
    """This client leaves the error codes of admin calls to its user."""
    for code in codes:
        if code != 0:
            raise for_code(code)(str(response))


async def create(topic, partitions):
    response = await with_admin(lambda admin: admin.create_topics([NewTopic(topic, partitions, 1)]))
    check(response, [error[1] for error in response.topic_errors])


async def remove(topic):
    response = await with_admin(lambda admin: admin.delete_topics([topic]))
    check(response, [error[1] for error in response.topic_error_codes])


async def topics():
    return list(await with_admin(lambda admin: admin.list_topics()))


async def groups():
    return [group[0] for group in await with_admin(lambda admin: admin.list_consumer_groups())]


async def produce(topic, codec, records):
    producer = AIOKafkaProducer(
        **base,
        enable_idempotence=True,
        compression_type=None if codec == "none" else codec,
        max_request_size=5_000_000,
        linger_ms=20,
        request_timeout_ms=5_000,
    )
    await producer.start()
    try:
        sent = [
            await producer.send(
                topic,
                partition=record["partition"],
                key=decode(record["key"]),
                value=decode(record["value"]),
                headers=headers_of(record),
                timestamp_ms=record.get("timestamp"),
            )
            for record in records
        ]
        await asyncio.gather(*sent)
    finally:
        await producer.stop()


def taken(record):
    return record_of(record.partition, record.offset, record.key, record.value, record.headers, record.timestamp)


async def read(topic, partitions, count):
    consumer = AIOKafkaConsumer(**base, group_id=None, fetch_max_wait_ms=100)
    await consumer.start()
    try:
        places = [TopicPartition(topic, partition) for partition in range(partitions)]
        consumer.assign(places)
        await consumer.seek_to_beginning(*places)
        return [taken(await asyncio.wait_for(consumer.getone(), 30)) for _ in range(count)]
    finally:
        await consumer.stop()


async def readAt(topic, partition, timestamp):
    consumer = AIOKafkaConsumer(**base, group_id=None, fetch_max_wait_ms=100)
    await consumer.start()
    try:
        place = TopicPartition(topic, partition)
        consumer.assign([place])
        consumer.seek(place, (await consumer.offsets_for_times({place: timestamp}))[place].offset)
        return taken(await asyncio.wait_for(consumer.getone(), 30))
    finally:
        await consumer.stop()


class Member:
    """A consumer and the task that reads from it."""

    def __init__(self, consumer):
        self.consumer = consumer
        self.seen = []
        self.task = asyncio.create_task(self.run())

    async def run(self):
        async for record in self.consumer:
            self.seen.append(f"{record.partition}:{record.offset}")


members = {}


async def join(member, group, topic, protocol):
    consumer = AIOKafkaConsumer(
        topic,
        **base,
        group_id=group,
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        heartbeat_interval_ms=300,
        fetch_max_wait_ms=100,
    )
    await consumer.start()
    members[member] = Member(consumer)


async def assigned(member):
    return sorted(place.partition for place in members[member].consumer.assignment())


async def received(member):
    return members[member].seen


async def commit(member):
    await members[member].consumer.commit()


async def leave(member):
    left = members.pop(member)
    left.task.cancel()
    await left.consumer.stop()


operations = {
    f.__name__: f for f in (create, remove, topics, groups, produce, read, readAt, join, assigned, received, commit, leave)
}


async def main():
    loop = asyncio.get_running_loop()
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        request = json.loads(line)
        try:
            answer = {"result": await operations[request.pop("op")](**request)}
        except Exception as error:
            traceback.print_exc()
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), flush=True)


asyncio.run(main())
