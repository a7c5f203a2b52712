"""Records that are forwarded from one cluster to another, with confluent-kafka.

  produce TOPIC COUNT SECONDS           numbered records with keys, headers and timestamps of their own, idempotent, acks=all
  compare TOPIC COUNT OTHER_BOOTSTRAP   partition by partition, record by record: key, value, headers, timestamp, order

The header that says where a batch is from (tailway.forwarded) is the only thing that may differ. Prints what it found as JSON;
exits 1 if that is not the same on both sides, with each number once.
"""
import json
import sys
import time

import confluent_kafka as ck
import settings

ADDED = "tailway.forwarded"
what, topic, count = sys.argv[1], sys.argv[2], int(sys.argv[3])


def produce(seconds):
    failed = []
    producer = ck.Producer(settings.confluent(
        enable_idempotence=True, acks="all", linger_ms=5, message_timeout_ms=300000, batch_num_messages=500))

    def delivered(error, _):
        if error:
            failed.append(str(error))

    begin = time.monotonic()
    # Of the last hour, so that no retention by time takes them.
    first = int(time.time() - 3600) * 1000
    for number in range(count):
        key = None if number % 7 == 0 else f"key-{number % 1000}".encode()
        # No value at all now and then, and headers of the same name, without a value, and with bytes that are no text.
        value = None if number % 101 == 0 and key else f"{number} {'x' * (number % 300)}".encode()
        headers = [("number", str(number).encode()), ("h", b"\xff\x00"), ("h", None)][: 1 + number % 3]
        while True:
            try:
                producer.produce(topic, value, key, headers=headers, timestamp=first + number, on_delivery=delivered)
                break
            except BufferError:
                producer.poll(0.1)
        if number % 500 == 0:
            producer.poll(0)
            time.sleep(max(0.0, begin + seconds * number / count - time.monotonic()))
    left = producer.flush(300)
    print(json.dumps({"produced": count, "failed": failed[:5], "left": left}))
    return not failed and not left


def records(bootstrap, partition):
    """All records of a partition, up to its end now."""
    config = {"bootstrap.servers": bootstrap, "group.id": "compare", "enable.auto.commit": False, "auto.offset.reset": "error"}
    consumer = ck.Consumer(config)
    place = ck.TopicPartition(topic, partition)
    low, high = consumer.get_watermark_offsets(place, timeout=30)
    consumer.assign([ck.TopicPartition(topic, partition, low)])
    at, silent_since = low, time.monotonic()
    while at < high:
        for message in consumer.consume(2000, 1.0):
            if message.error():
                raise ck.KafkaException(message.error())
            at, silent_since = message.offset() + 1, time.monotonic()
            headers = [header for header in message.headers() or [] if header[0] != ADDED]
            added = len(message.headers() or []) - len(headers)
            yield (message.key(), message.value(), headers, message.timestamp()), added
        assert time.monotonic() < silent_since + 60, f"{bootstrap} gives nothing of {topic}-{partition} at {at} of {high}"
    consumer.close()


def compare(other):
    cluster = ck.Consumer({"bootstrap.servers": settings.bootstrap, "group.id": "compare"})
    partitions = sorted(cluster.list_topics(topic, timeout=30).topics[topic].partitions)
    found = {"partitions": len(partitions), "here": 0, "there": 0, "batches": 0, "differ": [], "numbers": 0}
    numbers = set()
    for partition in partitions:
        here, there = records(settings.bootstrap, partition), records(other, partition)
        for at in range(count + 1):
            one, copy = next(here, None), next(there, None)
            found["here"] += one is not None
            found["there"] += copy is not None
            if one is None and copy is None:
                break
            found["batches"] += copy is not None and copy[1]
            if one is None or copy is None or one[0] != copy[0]:
                if len(found["differ"]) < 5:
                    found["differ"].append([partition, at, repr(one)[:200], repr(copy)[:200]])
            if copy:
                numbers.add(int(copy[0][2][0][1]))
    found["numbers"] = len(numbers)
    print(json.dumps(found))
    return not found["differ"] and found["here"] == found["there"] == found["numbers"] == count


sys.exit(0 if (produce(float(sys.argv[4])) if what == "produce" else compare(sys.argv[4])) else 1)
