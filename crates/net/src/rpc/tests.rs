//! The connection against a scripted server at the other end of an in-memory pipe.

use super::*;
use tokio::io::DuplexStream;

const API: &str = "Metadata";
const SECOND: Duration = Duration::from_secs(1);

fn connect(in_flight_max: usize) -> (RpcConnection, Server) {
    let (near, far) = tokio::io::duplex(1 << 16);
    let options = RpcOptions { client_id: None, response_bytes_max: 1000, in_flight_max };
    let connection = RpcConnection::start_on(near, false, "broker 1", options);
    let (reader, writer) = tokio::io::split(far);
    (connection, Server { reader: FrameReader::new(reader, 1000), writer })
}

struct Server {
    reader: FrameReader<ReadHalf<DuplexStream>>,
    writer: WriteHalf<DuplexStream>,
}

impl Server {
    /// The correlation id and body of the next request.
    async fn request(&mut self) -> (i32, Bytes) {
        let mut frame = self.reader.next().await.unwrap().unwrap();
        let id = frame.split_to(4);
        (i32::from_be_bytes(id[..].try_into().unwrap()), frame)
    }

    async fn answer(&mut self, id: i32, body: &[u8]) {
        self.writer.write_all(&frame(id, body)[0]).await.unwrap();
    }
}

/// A frame of a correlation id and a body.
fn frame(id: i32, body: &[u8]) -> Vec<Bytes> {
    let mut bytes = (u32::try_from(body.len()).unwrap() + 4).to_be_bytes().to_vec();
    bytes.extend_from_slice(&id.to_be_bytes());
    bytes.extend_from_slice(body);
    vec![bytes.into()]
}

async fn begin(connection: &RpcConnection, body: &str) -> PendingCall {
    let encode = |id| Ok::<_, std::fmt::Error>(frame(id, body.as_bytes()));
    connection.begin(API, 1, SECOND, encode).await.unwrap()
}

async fn call(connection: &RpcConnection, body: &str) -> Result<Bytes, RpcError> {
    begin(connection, body).await.response().await
}

#[tokio::test(start_paused = true)]
async fn answers_find_their_callers_in_any_order() {
    let (connection, mut server) = connect(8);
    let calls = [begin(&connection, "a").await, begin(&connection, "b").await];
    let (first, a) = server.request().await;
    let (second, b) = server.request().await;
    assert_eq!((&a[..], &b[..]), (&b"a"[..], &b"b"[..]), "sent in the order begun");
    server.answer(second, b"for b").await;
    server.answer(first, b"for a").await;
    let [a, b] = calls;
    assert_eq!(&b.response().await.unwrap()[4..], b"for b");
    assert_eq!(&a.response().await.unwrap()[4..], b"for a");
}

#[tokio::test(start_paused = true)]
async fn death_fails_every_waiter_with_its_cause() {
    let (connection, mut server) = connect(8);
    let calls = [begin(&connection, "a").await, begin(&connection, "b").await];
    let (id, _) = server.request().await;
    server.answer(id, b"x").await;
    let [a, b] = calls;
    a.response().await.unwrap();
    drop(server);
    for error in [b.response().await.unwrap_err(), call_fails(&connection).await] {
        assert_eq!(error.to_string(), "the connection to broker 1 ended: it closed the connection");
    }
    assert!(connection.failure().is_some());
}

async fn call_fails(connection: &RpcConnection) -> RpcError {
    let encode = |id| Ok::<_, std::fmt::Error>(frame(id, b"late"));
    connection.begin(API, 1, SECOND, encode).await.unwrap_err()
}

#[tokio::test(start_paused = true)]
async fn a_server_that_hangs_up_unheard_may_be_a_tls_port() {
    let (connection, server) = connect(8);
    let pending = begin(&connection, "a").await;
    drop(server);
    let error = pending.response().await.unwrap_err().to_string();
    assert!(error.contains("if it is one, switch TLS on"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_late_answer_ends_the_connection_for_all() {
    let (connection, mut server) = connect(8);
    let slow = begin(&connection, "slow").await;
    let behind = tailway_runtime::spawn({
        let connection = connection.clone();
        async move {
            let encode = |id| Ok::<_, std::fmt::Error>(frame(id, b"behind"));
            connection.call_raw(API, 1, 60 * SECOND, encode).await
        }
    });
    server.request().await;
    server.request().await;
    let error = slow.response().await.unwrap_err();
    assert!(matches!(error, RpcError::TimedOut { after: SECOND, .. }), "{error}");
    let error = behind.await.unwrap().unwrap_err().to_string();
    assert!(error.starts_with("broker 1 did not answer Metadata within 1s"), "{error}");
    assert!(server.reader.next().await.unwrap().is_none(), "the socket is closed");
}

#[tokio::test(start_paused = true)]
async fn an_answer_nobody_asked_for_ends_the_connection() {
    let (connection, mut server) = connect(8);
    let pending = begin(&connection, "a").await;
    let (id, _) = server.request().await;
    server.answer(id + 1, b"x").await;
    let error = pending.response().await.unwrap_err().to_string();
    assert!(error.contains("answered correlation id 1, which nobody asked"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn an_answer_beyond_the_cap_ends_the_connection() {
    let (connection, mut server) = connect(8);
    let pending = begin(&connection, "a").await;
    let (id, _) = server.request().await;
    server.answer(id, &[0; 997]).await;
    let error = pending.response().await.unwrap_err().to_string();
    assert!(error.contains("1001 bytes was announced, more than the 1000 allowed"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn callers_that_gave_up_confuse_nobody_and_keep_their_place() {
    let (connection, mut server) = connect(2);
    drop(begin(&connection, "given up").await);
    let encode = |id| Ok::<_, std::fmt::Error>(frame(id, b"b"));
    let second = connection.begin(API, 1, 60 * SECOND, encode).await.unwrap();
    // Two are unanswered: a third must wait, and its wait has a deadline that harms only itself.
    let error = call_fails(&connection).await;
    assert!(matches!(error, RpcError::TimedOut { .. }), "{error}");
    assert!(connection.failure().is_none());

    let (first_id, _) = server.request().await;
    let (second_id, _) = server.request().await;
    server.answer(first_id, b"nobody hears this").await;
    server.answer(second_id, b"b").await;
    assert!(second.response().await.is_ok());
    let third = tailway_runtime::spawn(async move { call(&connection, "c").await });
    let (third_id, _) = server.request().await;
    server.answer(third_id, b"c").await;
    assert!(third.await.unwrap().is_ok());
}

#[tokio::test(start_paused = true)]
async fn an_unencodable_request_harms_nobody() {
    let (connection, mut server) = connect(1);
    let error = connection.call_raw(API, 9, SECOND, |_| Err("no such field")).await.unwrap_err();
    assert_eq!(error.to_string(), "Metadata v9 for broker 1 cannot be encoded: no such field");
    let next = begin(&connection, "a").await;
    let (id, _) = server.request().await;
    server.answer(id, b"x").await;
    assert!(next.response().await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn the_last_handle_closes_the_connection() {
    let (connection, mut server) = connect(1);
    let pending = begin(&connection, "a").await;
    drop(connection);
    let (id, _) = server.request().await;
    server.answer(id, b"x").await;
    assert!(pending.response().await.is_ok(), "a pending call keeps it open");
    assert!(server.reader.next().await.unwrap().is_none());
}
