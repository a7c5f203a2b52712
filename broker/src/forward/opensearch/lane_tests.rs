//! A lane against a server made by hand: a data stream that rolls over, and answers that are lost.

use std::collections::BTreeMap;
use std::sync::Mutex as StdMutex;
use std::time::Duration;

use serde_json::{Value, json};
use tailway_metadata::TopicId;
use tailway_net::HostPort;
use tailway_wire::record::RecordHeaders;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use super::*;
use crate::config::{Host, Template};

/// A node as far as a lane can see it.
#[derive(Default)]
struct Node {
    /// Ids by backing index.
    indices: StdMutex<Vec<(String, BTreeMap<String, u32>)>>,
    /// The next bulk is done, and its answer is lost.
    lose_answer: StdMutex<bool>,
    asked: StdMutex<Vec<String>>,
}

impl Node {
    fn roll_over(&self) {
        let mut indices = self.indices.lock().unwrap();
        let name = format!(".ds-logs-t-default-{:06}", indices.len() + 1);
        indices.push((name, BTreeMap::new()));
    }

    fn copies(&self) -> BTreeMap<String, u32> {
        let mut copies = BTreeMap::new();
        for (_, ids) in self.indices.lock().unwrap().iter() {
            for id in ids.keys() {
                *copies.entry(id.clone()).or_default() += 1;
            }
        }
        copies
    }

    fn answer(&self, request: &str, body: &str) -> Option<Value> {
        self.asked.lock().unwrap().push(request.split('?').next().unwrap().to_owned());
        let mut indices = self.indices.lock().unwrap();
        if request.starts_with("GET /_data_stream") {
            let names: Vec<Value> =
                indices.iter().map(|(name, _)| json!({ "index_name": name })).collect();
            return Some(json!({ "data_streams": [{ "indices": names }] }));
        }
        if request.contains("/_mget") {
            let index = request.split('/').nth(1).unwrap();
            let wanted: Value = serde_json::from_str(body).unwrap();
            let (_, there) = indices.iter().find(|(name, _)| name == index).unwrap();
            let docs = wanted["ids"].as_array().unwrap().iter();
            let docs: Vec<Value> = docs
                .map(|id| json!({ "found": there.contains_key(id.as_str().unwrap()) }))
                .collect();
            return Some(json!({ "docs": docs }));
        }
        assert!(request.starts_with("POST /_bulk"), "{request}");
        let (name, ids) = indices.last_mut().unwrap();
        let mut items = Vec::new();
        for action in body.lines().step_by(2) {
            let action: Value = serde_json::from_str(action).unwrap();
            assert_eq!(action["create"]["_index"], "logs-t-default");
            let id = action["create"]["_id"].as_str().unwrap().to_owned();
            let status = if ids.contains_key(&id) { 409 } else { 201 };
            ids.insert(id, 1);
            items.push(json!({ "create": { "_index": *name, "status": status } }));
        }
        let lost = std::mem::take(&mut *self.lose_answer.lock().unwrap());
        (!lost).then(|| json!({ "items": items }))
    }

    async fn serve(self: Arc<Self>, mut stream: TcpStream) {
        loop {
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                let Ok(byte) = stream.read_u8().await else { return };
                head.push(byte);
            }
            let head = String::from_utf8(head).unwrap();
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
            let mut body = vec![0; length.map_or(0, |length| length.parse().unwrap())];
            stream.read_exact(&mut body).await.unwrap();
            let request = head.lines().next().unwrap();
            let body = String::from_utf8(body).unwrap();
            let Some(answer) = self.answer(request, &body) else { return };
            let answer = answer.to_string();
            let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", answer.len());
            stream.write_all(head.as_bytes()).await.unwrap();
            stream.write_all(answer.as_bytes()).await.unwrap();
        }
    }
}

async fn lane() -> (Arc<Node>, Lane) {
    let node = Arc::new(Node::default());
    node.roll_over();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let serving = Arc::clone(&node);
    drop(tailway_runtime::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            drop(tailway_runtime::spawn(Arc::clone(&serving).serve(stream)));
        }
    }));
    (node, new_lane(port))
}

fn new_lane(port: u16) -> Lane {
    let address = HostPort::new("127.0.0.1", port);
    let config = OpenSearchConfig {
        hosts: vec![Host { address, tls: None, path: String::new() }],
        naming: Naming::DataStream(Template::parse("logs-{topic}-default").unwrap()),
        auth: Auth::None,
        gzip: false,
    };
    let limits = SinkLimits {
        batch_bytes: 1 << 20,
        batch_records: 100,
        requests: 1,
        memory: 1 << 20,
        request_timeout: Duration::from_secs(5),
        rejects_in_a_row_max: 10,
    };
    let place =
        Place { sink: "es".into(), topic: "t".into(), topic_id: TopicId::default(), partition: 0 };
    Lane::new(Arc::new(OpenSearch::new(&config, &limits)), place)
}

fn records(offsets: std::ops::Range<i64>) -> Vec<Arc<Record>> {
    let record = |offset| Record {
        offset,
        timestamp: 0,
        key: None,
        value: Some(format!("line {offset}").into()),
        headers: RecordHeaders::default(),
        leader_epoch: 0,
        origin: None,
        forwarded_by: None,
        unreadable: None,
    };
    offsets.map(record).map(Arc::new).collect()
}

/// As the cursor does it: what is in doubt is looked up, if it can be, and what is missing is sent.
async fn send_again(lane: &Lane, records: Vec<Arc<Record>>) {
    let found = if lane.looks_up() {
        lane.look_up(&records).await.unwrap()
    } else {
        vec![false; records.len()]
    };
    let missing: Vec<Arc<Record>> =
        records.into_iter().zip(found).filter(|(_, found)| !found).map(|(r, _)| r).collect();
    if !missing.is_empty() {
        let count = missing.len();
        assert_eq!(lane.write(missing).await, Ok(vec![Item::Done; count]));
    }
}

#[tokio::test]
async fn what_is_in_doubt_after_a_rollover_is_looked_up_and_not_sent_again() {
    let (node, lane) = lane().await;
    lane.prepare().await.unwrap();
    assert_eq!(lane.memory(), ".ds-logs-t-default-000001");
    assert_eq!(lane.write(records(0..3)).await, Ok(vec![Item::Done; 3]));
    // The answer is lost, and the stream rolls over before the records are sent again.
    *node.lose_answer.lock().unwrap() = true;
    let lost = lane.write(records(3..6)).await;
    assert!(matches!(lost, Err(Failure::Doubtful { .. })), "{lost:?}");
    node.roll_over();
    send_again(&lane, records(3..8)).await;
    let copies = node.copies();
    assert_eq!((copies.len(), copies.values().max()), (8, Some(&1)), "{copies:?}");
    // A run that comes after it knows the floor from the commit, and looks no further back.
    assert_eq!(lane.memory(), ".ds-logs-t-default-000001");
    lane.settled();
    assert_eq!(lane.memory(), ".ds-logs-t-default-000002");
    node.roll_over();
    lane.remember(".ds-logs-t-default-000002");
    node.asked.lock().unwrap().clear();
    send_again(&lane, records(6..9)).await;
    let asked = node.asked.lock().unwrap().clone();
    let expected = [
        "GET /_data_stream/logs-t-default HTTP/1.1",
        "POST /.ds-logs-t-default-000002/_mget",
        "POST /.ds-logs-t-default-000003/_mget",
        "POST /_bulk",
    ];
    assert_eq!(asked, expected);
    assert_eq!(node.copies().values().max(), Some(&1));
    // Who remembers nothing looks into all of them.
    lane.remember("");
    let found = lane.look_up(&records(0..10)).await.unwrap();
    assert_eq!(found, [true, true, true, true, true, true, true, true, true, false]);
}

#[tokio::test]
async fn a_batch_that_cannot_be_read_is_refused_and_the_others_are_sent() {
    let (node, lane) = lane().await;
    let mut mixed = records(0..3);
    let broken = Record { unreadable: Some("bad".into()), ..mixed[1].as_ref().clone() };
    mixed[1] = Arc::new(broken);
    let items = lane.write(mixed).await.unwrap();
    let refused = bulk::refused("unreadable_batch", "bad");
    assert_eq!(items, [Item::Done, refused, Item::Done]);
    assert_eq!(node.copies().len(), 2);
}

#[tokio::test]
async fn nobody_there_means_that_nothing_arrived() {
    let lane = new_lane(1);
    let outcome = lane.write(records(0..1)).await;
    assert!(matches!(outcome, Err(Failure::Unsent { .. })), "{outcome:?}");
}
