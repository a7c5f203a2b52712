"""kafka-python there and back: argv TOPIC COUNT. gzip, then read as a group."""
import sys
import kafka
import settings

topic, count = sys.argv[1], int(sys.argv[2])
producer = kafka.KafkaProducer(**settings.kafka_python(acks="all", compression_type="gzip"))
futures = [producer.send(topic, str(i).encode()) for i in range(count)]
produced = sum(1 for future in futures if future.get(timeout=30))
consumer = kafka.KafkaConsumer(topic, **settings.kafka_python(
    group_id=topic + "-group", auto_offset_reset="earliest", consumer_timeout_ms=15000))
read = []
for record in consumer:
    read.append(record.value)
    if len(read) == count:
        break
consumer.close()
print(f"{kafka.__version__} produced {produced} consumed {len(read)} distinct {len(set(read))}")
sys.exit(len(read) != len(set(read)))
