//! Readiness and status: what `/readyz` and `/status` say.
//!
//! A program registers conditions; it is ready while all of them hold. Each condition that does not hold carries the
//! reason a human reads. Invariant: a program without any condition is not ready (it has not told yet).

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use serde_json::{Value, json};
use tokio::sync::watch;

/// Why it is not ready: condition -> reason, `None` once it holds.
type Conditions = BTreeMap<&'static str, Option<String>>;

/// The conditions of one program. Clones share them.
#[derive(Clone, Debug)]
pub struct Ready {
    conditions: Arc<watch::Sender<Conditions>>,
}

impl Default for Ready {
    fn default() -> Ready {
        Ready::new()
    }
}

impl Ready {
    pub fn new() -> Ready {
        Ready { conditions: Arc::new(watch::Sender::new(Conditions::new())) }
    }

    /// Adds a condition that does not hold yet, for `reason`.
    pub fn condition(&self, name: &'static str, reason: impl Into<String>) -> Condition {
        let condition = Condition { name, ready: self.clone() };
        condition.not_yet(reason);
        condition
    }

    pub fn is_ready(&self) -> bool {
        all_hold(&self.conditions.borrow())
    }

    /// The conditions that do not hold, with their reasons.
    pub fn reasons(&self) -> Vec<(&'static str, String)> {
        reasons(&self.conditions.borrow())
    }

    /// Returns as soon as all conditions hold.
    pub async fn wait(&self) {
        let mut changes = self.conditions.subscribe();
        // The sender lives in `self`, so waiting cannot fail.
        drop(changes.wait_for(all_hold).await);
    }

    /// In one line, for people: that it is ready, or why not.
    pub fn line(&self) -> String {
        line(&self.conditions.borrow())
    }

    /// Returns the line as soon as it is another one than this.
    pub async fn line_other_than(&self, said: &str) -> String {
        let mut changes = self.conditions.subscribe();
        // The sender lives in `self`, so waiting cannot fail.
        drop(changes.wait_for(|conditions| line(conditions) != said).await);
        self.line()
    }

    /// What `/readyz` answers.
    pub fn json(&self) -> Value {
        let conditions = self.conditions.borrow();
        let mut reasons: BTreeMap<&str, String> = reasons(&conditions).into_iter().collect();
        if conditions.is_empty() {
            reasons.insert("start", "starting".to_owned());
        }
        json!({ "ready": all_hold(&conditions), "reasons": reasons })
    }
}

fn all_hold(conditions: &Conditions) -> bool {
    !conditions.is_empty() && conditions.values().all(Option::is_none)
}

fn line(conditions: &Conditions) -> String {
    if all_hold(conditions) {
        return "ready".to_owned();
    }
    let reasons = reasons(conditions).into_iter().map(|(name, reason)| format!("{name}: {reason}"));
    let reasons = reasons.collect::<Vec<_>>().join("; ");
    if reasons.is_empty() { "starting".to_owned() } else { format!("not ready: {reasons}") }
}

fn reasons(conditions: &Conditions) -> Vec<(&'static str, String)> {
    conditions.iter().filter_map(|(name, reason)| Some((*name, reason.clone()?))).collect()
}

/// One condition of readiness.
#[derive(Clone, Debug)]
pub struct Condition {
    name: &'static str,
    ready: Ready,
}

impl Condition {
    /// It holds.
    pub fn holds(&self) {
        self.set(None);
    }

    /// It does not hold (yet, or any more), for this reason.
    pub fn not_yet(&self, reason: impl Into<String>) {
        self.set(Some(reason.into()));
    }

    fn set(&self, reason: Option<String>) {
        self.ready.conditions.send_if_modified(|conditions| {
            let known = conditions.get(self.name);
            let changed = known != Some(&reason);
            if changed {
                conditions.insert(self.name, reason);
            }
            changed
        });
    }
}

type Section = Arc<dyn Fn() -> Value + Send + Sync>;

/// The sections of `/status`, each a closure that is called per request. Clones share them.
#[derive(Clone, Default)]
pub struct Status {
    sections: Arc<Mutex<BTreeMap<&'static str, Section>>>,
}

impl Status {
    pub fn new() -> Status {
        Status::default()
    }

    /// Adds or replaces a section. `read` must not block: it runs on the admin thread for each request.
    pub fn section(&self, name: &'static str, read: impl Fn() -> Value + Send + Sync + 'static) {
        self.lock().insert(name, Arc::new(read));
    }

    /// All sections, read now.
    pub fn json(&self) -> Value {
        // The closures run without the lock: one of them may register a section.
        let sections: Vec<(&str, Section)> =
            self.lock().iter().map(|(name, read)| (*name, Arc::clone(read))).collect();
        sections.into_iter().map(|(name, read)| (name.to_owned(), read())).collect()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<&'static str, Section>> {
        // The map is only inserted into and iterated: a panic in between leaves it whole.
        self.sections.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.lock().keys()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn ready_only_while_every_condition_holds() {
        let ready = Ready::new();
        assert!(!ready.is_ready(), "nothing told yet");
        let raft = ready.condition("raft", "no leader");
        let log = ready.condition("log", "recovering 3 partitions");
        raft.holds();
        assert_eq!(ready.reasons(), vec![("log", "recovering 3 partitions".to_owned())]);
        assert_eq!(ready.line(), "not ready: log: recovering 3 partitions");
        log.holds();
        ready.wait().await;
        assert_eq!(ready.line_other_than("starting").await, "ready");
        assert_eq!(ready.json(), json!({"ready": true, "reasons": {}}));
        raft.not_yet("lost the leader");
        assert_eq!(ready.json(), json!({"ready": false, "reasons": {"raft": "lost the leader"}}));
    }

    #[test]
    fn status_reads_its_sections_at_the_time_of_the_request() {
        let status = Status::new();
        let count = Arc::new(std::sync::atomic::AtomicU64::new(1));
        let reader = Arc::clone(&count);
        status.section("files", move || json!(reader.load(std::sync::atomic::Ordering::Relaxed)));
        count.store(7, std::sync::atomic::Ordering::Relaxed);
        assert_eq!(status.json(), json!({"files": 7}));
    }
}
