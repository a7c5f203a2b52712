"""Kafka's VerifiableProducer and VerifiableConsumer as histories: argv KIND IN OUT PROC TOPIC [CLIENT | GROUP].

IN is what the tool printed on stdout: a producer with `--value-prefix CLIENT`, a consumer with `--verbose`. The tool stamps
an event when it prints it, so that a consumer's operation began after the event before it; of a send nothing is told but
that it began after the tool's start.
"""
import json, sys
from history import value

kind, source, out, proc, topic, name = sys.argv[1:]
# By class name: refused before anything was written. Any other failure leaves open whether it was.
REFUSED = ("RecordTooLargeException", "InvalidTopicException", "SerializationException", "BufferExhaustedException")
NOT_COMMITTED = ("CommitFailedException", "RebalanceInProgressException", "FencedInstanceIdException", "revoked")

events = [json.loads(line) for line in open(source) if line.startswith("{")]
history = open(out, "w")


def write(f, t0, t1, type="ok", **fields):
    event = {"proc": proc, "f": f, "type": type, "t0": t0, "t1": t1, **fields}
    history.write(json.dumps({key: field for key, field in event.items() if field is not None}) + "\n")


def spans():
    """Each event with its earliest begin and latest end in microseconds."""
    before = events[0]["timestamp"] if events else 0
    for event in events:
        yield event, before * 1000, event["timestamp"] * 1000 + 999
        before = event["timestamp"]


def producer(client):
    begin = events[0]["timestamp"] * 1000
    answered, end, sent = set(), begin, None
    for event, _, t1 in spans():
        end = t1
        if event["name"] == "tool_data":
            sent = event["sent"]
        if event["name"] not in ("producer_send_success", "producer_send_error"):
            continue
        val = value(event["value"].encode())
        answered.add(val)
        if event["name"] == "producer_send_success":
            off = event["offset"] if event["offset"] >= 0 else None
            write("send", begin, t1, tp=f"{topic}/{event['partition']}", val=val, off=off)
        else:
            refused = any(name in event["exception"] for name in REFUSED)
            write("send", begin, t1, "fail" if refused else "info", tp=topic, val=val)
    if sent is None:
        sys.exit(f"{source}: the tool did not say how much it sent: was it killed?")
    for n in range(sent):
        if (val := int(client) << 40 | n) not in answered:
            write("send", begin, end, "info", tp=topic, val=val)


def consumer(group):
    for event, t0, t1 in spans():
        if event["name"] == "partitions_assigned":
            for part in event["partitions"]:
                write("assign", event["timestamp"] * 1000, t1, tp=f"{topic}/{part['partition']}", group=group)
        elif event["name"] == "record_data":
            val = value((event["value"] or "").encode())
            write("poll", t0, t1, tp=f"{topic}/{event['partition']}", off=event["offset"], val=val)
        elif event["name"] == "offsets_committed":
            error = str(event.get("error"))
            type = "ok" if event["success"] else "fail" if any(name in error for name in NOT_COMMITTED) else "info"
            for part in event["offsets"]:
                write("commit", t0, t1, type, tp=f"{topic}/{part['partition']}", off=part["offset"], group=group)


{"producer": producer, "consumer": consumer}[kind](name)
