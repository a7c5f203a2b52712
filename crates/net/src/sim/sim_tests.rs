//! What the simulated network does to a connection, as a table of faults, each seen by both ends.

use std::time::Duration;

use tailway_runtime::sim::{add_host as add, kill, run, spawn_on};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};

use super::*;
use crate::{Limits, Listener, Security, dial};

const A: HostId = HostId(1);
const B: HostId = HostId(2);

fn address() -> HostPort {
    HostPort::new("10.0.0.2".to_owned(), 9092)
}

/// An echo server on B; the dialer speaks from A, and `scenario` is the outside.
fn on_two_hosts<F>(seed: u64, scenario: impl FnOnce(mpsc::Receiver<String>) -> F)
where
    F: Future<Output = ()> + Send + 'static,
{
    let (tell, told) = mpsc::channel(64);
    let outside = scenario(told);
    run(seed, async move {
        clear();
        for (host, last) in [(A, 1), (B, 2)] {
            add(host);
            let identity = PeerIdentity {
                common_name: Some(format!("host-{last}")),
                ..PeerIdentity::default()
            };
            add_host(host, IpAddr::from([10, 0, 0, last]), Some(identity));
        }
        set_delay_ms(A, B, 5..=9);
        spawn_on(B, async {
            let listener =
                Listener::bind(&address(), Security::Plaintext, Limits::default()).await.unwrap();
            loop {
                let mut stream = listener.accept().await.unwrap().establish().await.unwrap().stream;
                drop(tailway_runtime::spawn(async move {
                    let mut byte = [0];
                    while stream.read(&mut byte).await.is_ok_and(|n| n == 1) {
                        stream.write_all(&byte).await.ok();
                    }
                }));
            }
        });
        spawn_on(A, async move {
            let mut stream = dial(&address(), None, Duration::from_secs(1)).await.unwrap();
            for turn in 0..100_u8 {
                let begun = Instant::now();
                stream.write_all(&[turn]).await.ok();
                let mut byte = [0];
                let text = match stream.read(&mut byte).await {
                    Ok(0) => "end".to_owned(),
                    Ok(_) => format!("{} after {}", byte[0], begun.elapsed().as_millis() / 100),
                    Err(error) => error.kind().to_string(),
                };
                let ends = !text.contains("after");
                tell.send(text).await.ok();
                if ends {
                    return;
                }
                sleep(Duration::from_secs(1)).await;
            }
        });
        outside.await;
        clear();
    });
}

#[test]
fn a_cut_direction_is_silence_and_mending_it_delivers() {
    on_two_hosts(1, |mut told| async move {
        assert_eq!(told.recv().await.unwrap(), "0 after 0");
        set_cut(B, A, true);
        assert!(timeout(Duration::from_secs(5), told.recv()).await.is_err());
        set_cut(B, A, false);
        let late = told.recv().await.unwrap();
        assert!(late.starts_with("1 after 4") || late.starts_with("1 after 3"), "{late}");
        assert_eq!(told.recv().await.unwrap(), "2 after 0");
    });
}

#[test]
fn a_reset_fails_both_ends() {
    on_two_hosts(2, |mut told| async move {
        assert_eq!(told.recv().await.unwrap(), "0 after 0");
        reset(A, B);
        assert_eq!(told.recv().await.unwrap(), "connection reset");
    });
}

#[test]
fn what_comes_next_is_lost_with_its_connection_and_counted() {
    let lost = |counts: Counts| (counts.requests_lost, counts.answers_lost);
    for (seed, from, to, expected) in [(6, A, B, (1, 0)), (7, B, A, (0, 1))] {
        on_two_hosts(seed, move |mut told| async move {
            assert_eq!(told.recv().await.unwrap(), "0 after 0");
            lose_next(from, to);
            assert_eq!(told.recv().await.unwrap(), "connection reset");
            assert_eq!(lost(counts()), expected, "seed {seed}");
        });
    }
}

/// A request that its client has given up arrives behind one that the client made later.
#[test]
fn a_stalled_connection_is_overtaken_by_a_newer_one() {
    run(8, async {
        clear();
        for (host, last) in [(A, 1), (B, 2)] {
            add(host);
            add_host(host, IpAddr::from([10, 0, 0, last]), None);
        }
        set_delay_ms(A, B, 5..=9);
        let (tell, mut told) = mpsc::channel(4);
        spawn_on(B, async move {
            let listener =
                Listener::bind(&address(), Security::Plaintext, Limits::default()).await.unwrap();
            loop {
                let mut stream = listener.accept().await.unwrap().establish().await.unwrap().stream;
                let tell = tell.clone();
                drop(tailway_runtime::spawn(async move {
                    while let Ok(byte) = stream.read_u8().await {
                        tell.send(byte).await.unwrap();
                    }
                }));
            }
        });
        spawn_on(A, async {
            let wait = Duration::from_secs(1);
            let mut old = dial(&address(), None, wait).await.unwrap();
            stall(A, B, &(5_000..=5_000));
            old.write_u8(1).await.unwrap();
            drop(old);
            let mut new = dial(&address(), None, wait).await.unwrap();
            new.write_u8(2).await.unwrap();
            sleep(Duration::from_mins(1)).await;
        });
        let begun = Instant::now();
        assert_eq!(told.recv().await, Some(2));
        assert_eq!(told.recv().await, Some(1));
        assert!(begun.elapsed() >= Duration::from_secs(5));
        assert_eq!(counts(), Counts { stalled: 1, late: 1, overtaken: 1, ..Counts::default() });
        clear();
    });
}

#[test]
fn a_killed_process_closes_its_sockets_and_one_without_power_does_not() {
    on_two_hosts(3, |mut told| async move {
        assert_eq!(told.recv().await.unwrap(), "0 after 0");
        kill(B);
        assert_eq!(told.recv().await.unwrap(), "end");
    });
    on_two_hosts(4, |mut told| async move {
        assert_eq!(told.recv().await.unwrap(), "0 after 0");
        power_off(B);
        kill(B);
        assert!(timeout(Duration::from_mins(1), told.recv()).await.is_err());
        power_on(B);
        assert_eq!(told.recv().await.unwrap(), "connection reset");
    });
}

#[test]
fn nobody_there_is_refused_and_silence_times_out() {
    run(5, async {
        clear();
        add(A);
        add(B);
        add_host(A, IpAddr::from([10, 0, 0, 1]), None);
        add_host(B, IpAddr::from([10, 0, 0, 2]), None);
        let (tell, mut told) = mpsc::channel(4);
        spawn_on(A, async move {
            let wait = Duration::from_secs(3);
            for cut in [false, true] {
                set_cut(A, B, cut);
                let failure = dial(&address(), None, wait).await.unwrap_err().failure;
                tell.send(format!("{failure:?}")).await.unwrap();
            }
        });
        assert_eq!(told.recv().await.unwrap(), "Refused");
        assert_eq!(told.recv().await.unwrap(), "TimedOut { after: 3s }");
        clear();
    });
}
