"""Numbered lines, each a millisecond after the one before, by confluent-kafka: argv TOPIC COUNT FILLER."""
import sys, time
import confluent_kafka as ck
import settings

topic, count, filler = sys.argv[1], int(sys.argv[2]), "y" * int(sys.argv[3])
failed = []
producer = ck.Producer(settings.confluent(acks="all", batch_size=6000, linger_ms=50))
begin = int(time.time() * 1000) - count
for i in range(count):
    producer.produce(topic, f"{i} {filler}", timestamp=begin + i, on_delivery=lambda error, _: error and failed.append(error))
    producer.poll(0)
failed += [None] * producer.flush(30)
print(f"produced {count - len(failed)}")
