"""A kafka-python worker that writes a history: argv MODE OUT PROC TOPIC PARTITIONS SECONDS [CLIENT RATE | GROUP].

Modes: produce (CLIENT, RATE a second), assign, subscribe (as a member of GROUP).
"""
import sys, time
import kafka
from kafka import errors
from kafka.coordinator.assignors.range import RangePartitionAssignor
from kafka.structs import OffsetAndMetadata
import settings
from history import History, Sends, now, payload, value

mode, out, proc, topic, partitions, seconds, *rest = sys.argv[1:]
history, parts = History(out, proc, seconds), [kafka.TopicPartition(topic, part) for part in range(int(partitions))]
PATIENT = dict(reconnect_backoff_max_ms=500, request_timeout_ms=5000)
# Refused before anything was written; any other failure leaves open whether it was.
REFUSED = (errors.MessageSizeTooLargeError, errors.InvalidTopicError)
NOT_COMMITTED = (
    errors.CommitFailedError, errors.IllegalGenerationError, errors.UnknownMemberIdError, errors.RebalanceInProgressError)


def produce(client, rate):
    sends = Sends(history, client, topic, partitions, rate)
    producer = kafka.KafkaProducer(**settings.kafka_python(
        acks="all", enable_idempotence=True, delivery_timeout_ms=20000, max_in_flight_requests_per_connection=5, linger_ms=20,
        max_block_ms=1000, **PATIENT))

    def send(val, partition):
        def failed(error):
            print("send failed:", repr(error), file=sys.stderr)
            sends.answered(val, "fail" if isinstance(error, REFUSED) else "info")

        future = producer.send(topic, payload(val), partition=partition)
        future.add_callback(lambda done: sends.answered(val, "ok", done.offset if done.offset >= 0 else None))
        future.add_errback(failed)

    while history.running():
        val, partition = sends.next()
        while history.running():
            try:
                send(val, partition)
                break
            except errors.KafkaTimeoutError:  # no room or no metadata: nothing was handed over
                continue
    try:
        producer.flush(timeout=25)
    except errors.KafkaTimeoutError as error:
        print("flush:", error, file=sys.stderr)
    producer.close(timeout=1)
    sends.unanswered()


def consumer(**more):
    return kafka.KafkaConsumer(**settings.kafka_python(
        auto_offset_reset="earliest", enable_auto_commit=False, check_crcs=True, fetch_max_wait_ms=100, **PATIENT, **more))


def epoch(epoch):
    return epoch if epoch is not None and epoch >= 0 else None


def read(client, t0, records):
    for record in records:
        history.event(
            "poll", t0, tp=f"{topic}/{record.partition}", off=record.offset, val=value(record.value),
            epoch=epoch(record.leader_epoch), hw=client.highwater(kafka.TopicPartition(topic, record.partition)),
            ts=record.timestamp)


def assign():
    """Reads all partitions, assigns itself anew where it stands every 2,000 records, asks for high watermarks."""
    client, position, count, asked = consumer(), {part: 0 for part in parts}, 0, time.time()
    again = 0
    while history.running():
        if count >= again:
            again = count + 2000
            for part, off in position.items():
                history.event("assign", now(), tp=f"{topic}/{part.partition}", off=off)
            client.assign(parts)
            for part, off in position.items():
                client.seek(part, off)
        t0 = now()
        for part, records in client.poll(timeout_ms=200).items():
            read(client, t0, records)
            position[part], count = records[-1].offset + 1, count + len(records)
        if time.time() - asked > 0.7:
            t0 = now()
            try:
                for part, hw in client.end_offsets(parts, timeout_ms=500).items():
                    history.event("hw", t0, tp=f"{topic}/{part.partition}", off=hw)
            except errors.KafkaError as error:
                print("no watermark:", repr(error), file=sys.stderr)
            asked = time.time()
    client.close()


def subscribe(group):
    client = consumer(
        group_id=group, session_timeout_ms=10000, heartbeat_interval_ms=1000,
        partition_assignment_strategy=[RangePartitionAssignor])

    class Said(kafka.ConsumerRebalanceListener):
        def on_partitions_assigned(self, assigned):
            for part in assigned:
                history.event("assign", now(), tp=f"{topic}/{part.partition}", group=group)

        def on_partitions_revoked(self, revoked):
            pass  # each poll's records are committed at once

    client.subscribe([topic], listener=Said())
    while history.running():
        t0 = now()
        for part, records in client.poll(timeout_ms=200).items():
            read(client, t0, records)
            off, begin, type = records[-1].offset + 1, now(), "ok"
            try:
                client.commit({part: OffsetAndMetadata(off, "", -1)}, timeout_ms=3000)
            except errors.KafkaError as error:
                print("commit failed:", repr(error), file=sys.stderr)
                type = "fail" if isinstance(error, NOT_COMMITTED) else "info"
            history.event("commit", begin, type, tp=f"{topic}/{part.partition}", off=off, group=group)
    client.close()


{"produce": produce, "assign": assign, "subscribe": subscribe}[mode](*rest)
