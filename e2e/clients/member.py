"""One group member: argv LIBRARY TOPIC GROUP. Prints `assigned P P ...` and `read PARTITION OFFSET` lines, commits each."""
import sys
import settings

library, topic, group = sys.argv[1:4]


def say(*words):
    print(*words, flush=True)


if library == "confluent":
    import confluent_kafka as ck

    consumer = ck.Consumer(settings.confluent(
        group_id=group, auto_offset_reset="earliest", enable_auto_commit=False, session_timeout_ms=6000,
        partition_assignment_strategy="range"))
    consumer.subscribe(
        [topic],
        on_assign=lambda _, parts: say("assigned", *sorted(p.partition for p in parts)),
        on_revoke=lambda _, parts: say("revoked", *sorted(p.partition for p in parts)))
    while True:
        message = consumer.poll(0.2)
        if message and not message.error():
            say("read", message.partition(), message.offset())
            try:
                consumer.commit(message=message, asynchronous=False)
            except ck.KafkaException as error:
                say("commit failed:", error)
else:
    import kafka
    from kafka.coordinator.assignors.range import RangePartitionAssignor

    class Said(kafka.ConsumerRebalanceListener):
        def on_partitions_assigned(self, assigned):
            say("assigned", *sorted(p.partition for p in assigned))

        def on_partitions_revoked(self, revoked):
            say("revoked", *sorted(p.partition for p in revoked))

    consumer = kafka.KafkaConsumer(**settings.kafka_python(
        group_id=group, auto_offset_reset="earliest", enable_auto_commit=False, session_timeout_ms=6000,
        heartbeat_interval_ms=1000, partition_assignment_strategy=[RangePartitionAssignor]))
    consumer.subscribe([topic], listener=Said())
    while True:
        for partition, records in consumer.poll(timeout_ms=200).items():
            for record in records:
                say("read", record.partition, record.offset)
            try:
                consumer.commit()
            except kafka.errors.KafkaError as error:
                say("commit failed:", error)
