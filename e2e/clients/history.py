"""What the history workers share: values, payloads, events as JSON lines (crates/history/src/event.rs has the form).

A value is client << 40 | n; a payload is the value, its CRC and filler. VerifiableProducer's payloads, CLIENT.N, are read too.
A worker ends at SIGTERM or after SECONDS, whichever comes first; what is unanswered then is `info`.
"""
import json, re, signal, threading, time, zlib

FILLER = "y" * 60


def now():
    """Microseconds of the host's clock, which all processes of a run share."""
    return time.time_ns() // 1000


def payload(val):
    return f"{val} {zlib.crc32(str(val).encode()):08x} {FILLER}".encode()


def value(payload):
    """The value in a payload, or None when no client makes such a payload."""
    text = (payload or b"").decode("ascii", "replace")
    if short := re.fullmatch(r"(\d+)\.(\d+)", text):
        return int(short[1]) << 40 | int(short[2])
    val = text.split(" ")[0]
    return int(val) if val.isdigit() and payload_of(val) == text else None


def payload_of(val):
    return payload(int(val)).decode()


class History:
    """Writes the events of one process; `running` until SIGTERM or the deadline."""

    def __init__(self, path, proc, seconds):
        self.proc, self.end, self.stopped = proc, time.time() + float(seconds), False
        self.file, self.lock = open(path, "w", buffering=1), threading.Lock()
        signal.signal(signal.SIGTERM, lambda *_: setattr(self, "stopped", True))

    def running(self):
        return not self.stopped and time.time() < self.end

    def event(self, f, t0, type="ok", **fields):
        fields = {key: field for key, field in fields.items() if field is not None}
        event = {"proc": self.proc, "f": f, "type": type, "t0": t0, "t1": max(t0, now()), **fields}
        with self.lock:
            self.file.write(json.dumps(event) + "\n")


class Sends:
    """The sends of one producer: which are unanswered, and the pace."""

    def __init__(self, history, client, topic, partitions, rate):
        self.history, self.topic, self.partitions = history, topic, int(partitions)
        self.first, self.n, self.pause, self.open = int(client) << 40, 0, 1 / float(rate), {}
        self.lock, self.due = threading.Lock(), time.monotonic()

    def next(self):
        """Value, partition and begin of the next send."""
        self.due = max(self.due + self.pause, time.monotonic() - 1)
        time.sleep(max(0, self.due - time.monotonic()))
        val, partition, t0 = self.first | self.n, self.n % self.partitions, now()
        with self.lock:
            self.open[val] = partition, t0
        self.n += 1
        return val, partition

    def answered(self, val, type, off=None):
        with self.lock:
            partition, t0 = self.open.pop(val)
        self.history.event("send", t0, type, tp=f"{self.topic}/{partition}", val=val, off=off)

    def unanswered(self):
        for val in list(self.open):
            self.answered(val, "info")
