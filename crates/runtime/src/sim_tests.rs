//! The scheduler's promises: one seed one order, killed is dead, aborted is dropped, blocking work takes time.

use std::sync::atomic::{AtomicU32, Ordering};

use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::*;

/// What happened, in order.
type Log = Arc<Mutex<Vec<String>>>;

fn note(log: &Log, text: impl Into<String>) {
    log.lock().unwrap().push(text.into());
}

/// Eight tasks woken at once through a `watch`, whose own wake order is random.
fn order(seed: u64) -> Vec<String> {
    let log = Log::default();
    let seen = Arc::clone(&log);
    run(seed, async move {
        let (tell, told) = watch::channel(0);
        let mut set = JoinSet::new();
        for name in 0..8 {
            let (log, mut told) = (Arc::clone(&seen), told.clone());
            set.spawn(crate::task(async move {
                told.changed().await.unwrap();
                note(&log, format!("{name} {}", crate::seed()));
            }));
        }
        sleep(Duration::from_millis(5)).await;
        tell.send(1).unwrap();
        while set.join_next().await.is_some() {}
    });
    Arc::try_unwrap(log).unwrap().into_inner().unwrap()
}

#[test]
fn a_seed_is_an_order_and_seeds_differ() {
    let orders: Vec<_> = (0..20).map(order).collect();
    for (seed, first) in orders.iter().enumerate() {
        assert_eq!(order(seed as u64), *first, "seed {seed}");
    }
    assert!(orders.iter().any(|other| *other != orders[0]), "every seed gave {:?}", orders[0]);
}

#[test]
fn a_killed_host_does_nothing_more_and_can_live_again() {
    let log = Log::default();
    let seen = Arc::clone(&log);
    run(1, async move {
        let host = HostId(1);
        add_host(host);
        let start = |name: &'static str| {
            let log = Arc::clone(&seen);
            spawn_on(host, async move {
                let inner = Arc::clone(&log);
                drop(crate::spawn(async move {
                    loop {
                        sleep(Duration::from_secs(1)).await;
                        note(&inner, name);
                    }
                }));
                drop(crate::spawn_blocking(move || note(&log, format!("{name} blocking"))));
            });
        };
        start("first");
        sleep(Duration::from_millis(2_500)).await;
        kill(host);
        start("dead");
        sleep(Duration::from_secs(5)).await;
        revive(host);
        start("second");
        sleep(Duration::from_millis(1_500)).await;
    });
    let expected = ["first blocking", "first", "first", "second blocking", "second"];
    assert_eq!(*log.lock().unwrap(), expected);
}

struct CountsDrops(Arc<AtomicU32>);

impl Drop for CountsDrops {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

#[test]
fn an_aborted_task_is_dropped_where_it_stands() {
    let drops = Arc::new(AtomicU32::new(0));
    let counted = Arc::clone(&drops);
    run(1, async move {
        let held = CountsDrops(Arc::clone(&counted));
        let handle = crate::spawn(async move {
            let _held = held;
            std::future::pending::<()>().await;
        });
        sleep(Duration::from_millis(1)).await;
        handle.abort();
        assert!(handle.await.unwrap_err().is_cancelled());
        assert_eq!(counted.load(Ordering::Relaxed), 1);
    });
    assert_eq!(drops.load(Ordering::Relaxed), 1);
}

#[test]
fn blocking_work_takes_the_time_of_its_host() {
    run(1, async {
        let host = HostId(1);
        add_host(host);
        set_blocking_ms(host, 700..=700);
        let (done, mut watched) = watch::channel(false);
        spawn_on(host, async move {
            crate::spawn_blocking(|| ()).await.unwrap();
            done.send_replace(true);
        });
        let begun = Instant::now();
        watched.wait_for(|done| *done).await.unwrap();
        assert_eq!(begun.elapsed(), Duration::from_millis(700));
    });
}

#[test]
fn outside_of_a_run_everything_is_real() {
    assert_ne!(crate::uuid(), crate::uuid());
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let sum = runtime.block_on(async {
        crate::spawn(async { 1 }).await.unwrap() + crate::spawn_blocking(|| 2).await.unwrap()
    });
    assert_eq!(sum, 3);
}
