"""What a data stream or an index holds of numbered lines, asked of OpenSearch itself. argv: URL NAME FILES [FROM-]LINES ROTATE_EVERY [AGENT...]

A line is `FILE GENERATION NUMBER FILLER` (e2e/src/lines.rs). Hits are grouped by the line's own file and number, and by the name
of the agent where some are given; each must be there exactly once, and its text must be what was written. With FROM, a number
of lines as well, those before are left out. Prints what it found as JSON; exits 1 if that is not it.
"""
import json
import sys
import urllib.request

url, name, files, rotate_every = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[5])
first, each = (int(lines) // files for lines in ("0-" + sys.argv[4]).split("-")[-2:])
agents = sys.argv[6:] or [None]


def ask(path, body=None):
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url + path, data, {"content-type": "application/json"}, method="POST")
    with urllib.request.urlopen(request, timeout=120) as answer:
        return json.load(answer)


def hits():
    fields = ["message", "agent.name"]
    page = ask(f"/{name}/_search?scroll=5m", {"size": 5000, "sort": ["_doc"], "_source": fields, "query": {"match_all": {}}})
    while page["hits"]["hits"]:
        assert not page["timed_out"] and page["_shards"]["failed"] == 0, page["_shards"]
        yield from page["hits"]["hits"]
        page = ask("/_search/scroll", {"scroll": "5m", "scroll_id": page["_scroll_id"]})


ask(f"/{name}/_refresh")
seen = {agent: [bytearray(each) for _ in range(files)] for agent in agents}
found = {"hits": 0, "lost": 0, "repeated": 0, "wrong": 0, "indices": {}, "examples": []}
for hit in hits():
    found["indices"][hit["_index"]] = found["indices"].get(hit["_index"], 0) + 1
    text = hit["_source"]["message"]
    try:
        file, generation, number = map(int, text.split(" ")[:3])
        if number < first:
            continue
        agent = hit["_source"]["agent"]["name"] if agents[0] else None
        good = text == f"{file} {number // rotate_every} {number} {'x' * (number % 120)}"
        counts = seen[agent][file]
        count = counts[number]
    except (ValueError, LookupError):
        good, count, counts = False, 0, None
    found["hits"] += 1
    if not good:
        found["wrong"] += 1
        found["examples"].append(["wrong", hit["_index"], hit["_id"], text[:80]])
        continue
    counts[number] = min(count + 1, 255)
    if count:
        found["repeated"] += 1
        found["examples"].append(["repeated", hit["_index"], hit["_id"], text[:40]])
for agent, of_agent in seen.items():
    for file, counts in enumerate(of_agent):
        missing = [number for number, count in enumerate(counts) if count == 0 and number >= first]
        found["lost"] += len(missing)
        found["examples"] += [["lost", agent, file, number] for number in missing[:5]]
found["examples"] = found["examples"][:20]
print(json.dumps(found))
exact = not (found["lost"] or found["repeated"] or found["wrong"]) and found["hits"] == (each - first) * files * len(agents)
sys.exit(0 if exact else 1)
