"""A confluent-kafka worker that writes a history: argv MODE OUT PROC TOPIC PARTITIONS SECONDS [CLIENT RATE | GROUP].

Modes: produce (CLIENT, RATE a second), assign, subscribe (as a member of GROUP), drain (all partitions from 0 to their end).
"""
import sys, time
import confluent_kafka as ck
import settings
from history import History, Sends, now, payload, value

mode, out, proc, topic, partitions, seconds, *rest = sys.argv[1:]
history, parts = History(out, proc, seconds), range(int(partitions))
Error = ck.KafkaError
PATIENT = dict(reconnect_backoff_max_ms=500, socket_timeout_ms=5000)
# Refused before anything was written; any other failure leaves open whether it was.
REFUSED = {Error.MSG_SIZE_TOO_LARGE, Error.INVALID_MSG, Error._UNKNOWN_PARTITION, Error._UNKNOWN_TOPIC}
NOT_COMMITTED = {
    Error.ILLEGAL_GENERATION, Error.UNKNOWN_MEMBER_ID, Error.REBALANCE_IN_PROGRESS, Error.FENCED_INSTANCE_ID, Error._STATE,
    Error._FENCED, Error._ASSIGNMENT_LOST}


def produce(client, rate):
    sends = Sends(history, client, topic, partitions, rate)
    producer = ck.Producer(settings.confluent(
        acks="all", enable_idempotence=True, retries=2147483647, delivery_timeout_ms=20000,
        max_in_flight_requests_per_connection=5, linger_ms=20, **PATIENT))

    def answer(val):
        def delivered(error, message):
            if not error:
                sends.answered(val, "ok", message.offset() if message.offset() >= 0 else None)
            else:
                sends.answered(val, "fail" if error.code() in REFUSED else "info")
        return delivered

    while history.running():
        val, partition = sends.next()
        while history.running():
            try:
                producer.produce(topic, payload(val), partition=partition, on_delivery=answer(val))
                break
            except BufferError:
                producer.poll(0.1)
        producer.poll(0)
    producer.flush(25)
    sends.unanswered()


def consumer(**more):
    return ck.Consumer(settings.confluent(
        auto_offset_reset="earliest", enable_auto_commit=False, check_crcs=True, fetch_wait_max_ms=100, **PATIENT, **more))


def read(message, t0, client):
    part = ck.TopicPartition(topic, message.partition())
    epoch = message.leader_epoch()
    hw = client.get_watermark_offsets(part, cached=True)[1]
    history.event(
        "poll", t0, tp=f"{topic}/{message.partition()}", off=message.offset(), val=value(message.value()),
        epoch=epoch if epoch is not None and epoch >= 0 else None, hw=hw if hw >= 0 else None, ts=message.timestamp()[1])


def watermark(client, part, timeout):
    t0 = now()
    try:
        return t0, client.get_watermark_offsets(ck.TopicPartition(topic, part), timeout=timeout)[1]
    except ck.KafkaException as error:
        print("no watermark:", error, file=sys.stderr)
        return t0, None


def assign():
    """Reads all partitions, assigns itself anew where it stands every 2,000 records, asks for high watermarks."""
    client, position, count, asked = consumer(group_id=proc), {part: 0 for part in parts}, 0, time.time()
    while history.running():
        if count % 2000 == 0:
            count += 1
            for part, off in position.items():
                history.event("assign", now(), tp=f"{topic}/{part}", off=off)
            client.assign([ck.TopicPartition(topic, part, off) for part, off in position.items()])
        t0 = now()
        message = client.poll(0.2)
        if message and not message.error():
            read(message, t0, client)
            position[message.partition()], count = message.offset() + 1, count + 1
        if time.time() - asked > 0.7:
            for part in parts:
                t0, hw = watermark(client, part, 0.5)
                if hw is not None:
                    history.event("hw", t0, tp=f"{topic}/{part}", off=hw)
            asked = time.time()
    client.close()


def subscribe(group):
    client = consumer(group_id=group, session_timeout_ms=10000, partition_assignment_strategy="range")
    pending, begun = {}, 0

    def commit(*_):
        """Also when partitions are taken away: then nothing of them may be committed later."""
        offsets, t0 = [ck.TopicPartition(topic, part, off) for part, off in pending.items()], now()
        pending.clear()
        if not offsets:
            return
        try:
            done = {part.partition: part.error for part in client.commit(offsets=offsets, asynchronous=False)}
        except ck.KafkaException as failed:
            done = {part.partition: failed.args[0] for part in offsets}
        for part in offsets:
            error = done.get(part.partition)
            type = "ok" if not error else "fail" if error.code() in NOT_COMMITTED else "info"
            history.event("commit", t0, type, tp=f"{topic}/{part.partition}", off=part.offset, group=group)

    def assigned(_, parts):
        for part in parts:
            history.event("assign", now(), tp=f"{topic}/{part.partition}", group=group)

    client.subscribe([topic], on_assign=assigned, on_revoke=commit, on_lost=lambda *_: pending.clear())
    while history.running():
        t0 = now()
        message = client.poll(0.2)
        if message and not message.error():
            read(message, t0, client)
            begun = begun or time.time()
            pending[message.partition()] = message.offset() + 1
        if pending and time.time() - begun > 0.2:
            commit()
            begun = 0
    commit()
    client.close()


def drain():
    client = consumer(group_id=proc)
    for part in parts:
        begin, end = watermark(client, part, 10)
        if end is None:
            sys.exit(f"no high watermark of partition {part}")
        history.event("assign", now(), tp=f"{topic}/{part}", off=0, drain=True)
        client.assign([ck.TopicPartition(topic, part, 0)])
        position = 0
        while position < end and history.running():
            t0 = now()
            message = client.poll(0.5)
            if message and not message.error():
                read(message, t0, client)
                position = message.offset() + 1
        history.event("drain", begin, tp=f"{topic}/{part}", off=end)
    client.close()


{"produce": produce, "assign": assign, "subscribe": subscribe, "drain": drain}[mode](*rest)
