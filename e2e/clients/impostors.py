"""confluent-kafka asks each of several servers for metadata, at once: argv PROPERTIES ADDRESS... Whether it believes them, they note."""
import sys
import threading
import confluent_kafka as ck

with open(sys.argv[1]) as file:
    settings = dict(line.rstrip("\n").split("=", 1) for line in file)


def ask(address):
    consumer = ck.Consumer(settings | {"group.id": "impostors", "bootstrap.servers": address})
    try:
        consumer.list_topics(timeout=5)
    except ck.KafkaException:
        pass  # As it should be; by which end, the server knows.
    consumer.close()


threads = [threading.Thread(target=ask, args=(address,)) for address in sys.argv[2:]]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
