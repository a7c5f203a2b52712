"""confluent-kafka by a file of properties as it is: argv FILE TOPIC. Reads TOPIC from its beginning to its end, a message a line."""
import sys
import confluent_kafka as ck

with open(sys.argv[1]) as file:
    settings = dict(line.rstrip("\n").split("=", 1) for line in file)
settings |= {"group.id": "properties", "auto.offset.reset": "earliest", "enable.partition.eof": "true"}
consumer = ck.Consumer(settings)
metadata = consumer.list_topics(sys.argv[2], timeout=20)
open_ends = set(metadata.topics[sys.argv[2]].partitions)
consumer.assign([ck.TopicPartition(sys.argv[2], partition, 0) for partition in open_ends])
while open_ends:
    message = consumer.poll(20)
    if message is None:
        sys.exit(f"no end of partitions {open_ends} within 20 s")
    if message.error() is None:
        sys.stdout.buffer.write(message.value() + b"\n")
    elif message.error().code() == ck.KafkaError._PARTITION_EOF:
        open_ends.discard(message.partition())
    else:
        sys.exit(str(message.error()))
consumer.close()
