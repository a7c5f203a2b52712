"""confluent-kafka there and back: argv TOPIC COUNT. Idempotent, zstd, then read as a group."""
import sys, time
import confluent_kafka as ck
import settings

topic, count = sys.argv[1], int(sys.argv[2])
failed = []
producer = ck.Producer(settings.confluent(enable_idempotence=True, compression_type="zstd"))
for i in range(count):
    producer.produce(topic, str(i), on_delivery=lambda error, _: error and failed.append(error))
    producer.poll(0)
failed += [None] * producer.flush(30)  # still unanswered
consumer = ck.Consumer(settings.confluent(group_id=topic + "-group", auto_offset_reset="earliest"))
consumer.subscribe([topic])
read, end = [], time.time() + 30
while len(read) < count and time.time() < end:
    message = consumer.poll(0.5)
    if message and not message.error():
        read.append(message.value())
consumer.close()
print(f"{ck.version()} on librdkafka {ck.libversion()[0]} produced {count - len(failed)} consumed {len(read)} distinct {len(set(read))}")
sys.exit(len(read) != len(set(read)))
