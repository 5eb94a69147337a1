"""
What a read_committed consumer sees of a topic, for the checker of compat/transactions. `read.py ADDRESS TOPIC PARTITIONS`

One line per record, `partition offset value`, until the end of all partitions.
"""

import sys

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, TopicPartition

address, topic, partitions = sys.argv[1], sys.argv[2], int(sys.argv[3])
consumer = Consumer(
    {
        "bootstrap.servers": address,
        "group.id": "reader",
        "isolation.level": "read_committed",
        "enable.auto.commit": False,
        "enable.partition.eof": True,
    }
)
consumer.assign([TopicPartition(topic, partition, OFFSET_BEGINNING) for partition in range(partitions)])
left = set(range(partitions))
while left:
    messages = consumer.consume(10_000, 1)
    for message in messages:
        error = message.error()
        if error is None:
            sys.stdout.write(f"{message.partition()} {message.offset()} {message.value().decode()}\n")
        elif error.code() == KafkaError._PARTITION_EOF:
            left.discard(message.partition())
        elif not error.retriable():
            raise KafkaException(error)
consumer.close()
