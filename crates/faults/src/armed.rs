//! The points with their teeth: what is armed, and how often each was hit; the planted bug; bounds made small.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use crate::{BOUNDS, BUGS, CRASHES, GUARDS, POINTS};

/// The variables that arm points in a program under test.
const FAULTS: &str = "TAILWAY_FAULTS";
const CRASH_AT: &str = "TAILWAY_CRASH_AT";
/// The one that plants a bug in it.
const PLANT: &str = "TAILWAY_PLANT";
/// The one that makes bounds small.
const SMALL: &str = "TAILWAY_BOUNDS";

/// What an armed point does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Teeth {
    /// Answers an error, at every hit.
    Error,
    /// Answers an error once and passes afterwards, as an fsync does that has dropped its pages.
    Once,
    /// Answers ENOSPC.
    Full,
    /// Ends the process at once, as a crash would.
    Abort,
    /// Panics there, with what it was doing on the stack.
    Panic,
    /// Holds the thread there for ever, as a disk does that does not answer.
    Stall,
}

#[derive(Debug, Default)]
struct Armed {
    /// Point -> (hits to let pass, what then).
    points: BTreeMap<&'static str, (u64, Teeth)>,
}

fn armed() -> MutexGuard<'static, Armed> {
    static ARMED: OnceLock<Mutex<Armed>> = OnceLock::new();
    ARMED
        .get_or_init(|| {
            let mut armed = Armed::default();
            for (variable, teeth) in [(FAULTS, None), (CRASH_AT, Some(Teeth::Abort))] {
                for (point, nth, teeth) in from_environment(variable, |text| parse(text, teeth)) {
                    armed.points.insert(point, (nth.saturating_sub(1), teeth));
                }
            }
            Mutex::new(armed)
        })
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
}

/// What a variable says; a mistake in it ends the program, because a test would show nothing.
fn from_environment<T: Default>(
    variable: &str,
    parse: impl FnOnce(&str) -> Result<T, String>,
) -> T {
    let Ok(text) = std::env::var(variable) else { return T::default() };
    parse(&text).unwrap_or_else(|error| panic!("{variable}: {error}"))
}

/// Arms a point: its `nth` hit from now (1 = the next) and every later one bites.
///
/// # Panics
/// If there is no such point.
pub fn arm(point: &str, nth: u64, teeth: Teeth) {
    let name = known(point, teeth).unwrap_or_else(|error| panic!("{error}"));
    armed().points.insert(name, (nth.saturating_sub(1), teeth));
}

/// Lets everything pass again.
pub fn disarm_all() {
    armed().points.clear();
}

fn planted() -> MutexGuard<'static, Option<&'static str>> {
    static PLANTED: OnceLock<Mutex<Option<&'static str>>> = OnceLock::new();
    let from = || Mutex::new(from_environment(PLANT, |bug| bug_named(bug).map(Some)));
    PLANTED.get_or_init(from).lock().unwrap_or_else(PoisonError::into_inner)
}

/// Plants a bug in this process; `None` removes it.
///
/// # Panics
/// If there is no such bug.
pub fn plant(bug: Option<&str>) {
    let known = |bug| bug_named(bug).unwrap_or_else(|error| panic!("{error}"));
    *planted() = bug.map(known);
}

/// The bound as it is, or as `TAILWAY_BOUNDS` wants it.
///
/// # Panics
/// If there is no such bound.
pub fn bound(name: &'static str, value: u64) -> u64 {
    static SMALLER: OnceLock<BTreeMap<&'static str, u64>> = OnceLock::new();
    assert!(BOUNDS.contains(&name), "there is no bound `{name}`; there are {BOUNDS:?}");
    let smaller = SMALLER.get_or_init(|| from_environment(SMALL, parse_bounds));
    smaller.get(name).copied().unwrap_or(value)
}

/// Ends the process if that is what the point is armed for.
///
/// # Panics
/// If there is no such point.
pub fn crash(point: &'static str) {
    assert!(CRASHES.contains(&point), "there is no crash point `{point}`; there are {CRASHES:?}");
    // Nothing but an end or a stall can be armed here.
    check(point).ok();
}

/// Whether a bug is planted.
///
/// # Panics
/// If there is no such bug: a renamed one may not pass unnoticed.
pub fn is_planted(bug: &'static str) -> bool {
    let known = BUGS.contains(&bug) || GUARDS.contains(&bug);
    assert!(known, "there is no bug `{bug}`; there are {BUGS:?} and {GUARDS:?}");
    *planted() == Some(bug)
}

/// Passes, fails or ends the process, as the point is armed.
///
/// # Panics
/// If that is what it is armed for.
pub fn check(point: &'static str) -> io::Result<()> {
    let mut armed = armed();
    let Some((pass, teeth)) = armed.points.get_mut(point) else { return Ok(()) };
    if *pass > 0 {
        *pass -= 1;
        return Ok(());
    }
    let teeth = *teeth;
    if teeth == Teeth::Once {
        armed.points.remove(point);
    }
    match teeth {
        Teeth::Error | Teeth::Once => Err(io::Error::other(format!("fault injected at {point}"))),
        Teeth::Full => Err(io::ErrorKind::StorageFull.into()),
        Teeth::Abort => {
            // Whoever watches can tell this end from any other.
            writeln!(io::stderr(), "crash at the armed point {point}").ok();
            std::process::abort()
        }
        Teeth::Panic => {
            drop(armed);
            panic!("panic at the armed point {point}")
        }
        Teeth::Stall => {
            drop(armed);
            writeln!(io::stderr(), "stall at the armed point {point}").ok();
            loop {
                std::thread::park();
            }
        }
    }
}

/// The name as it stands in one of the lists.
fn bug_named(name: &str) -> Result<&'static str, String> {
    among(&[BUGS, GUARDS].concat(), "bug", name)
}

fn among(list: &[&'static str], what: &str, name: &str) -> Result<&'static str, String> {
    let known = list.iter().find(|known| **known == name);
    known.copied().ok_or_else(|| format!("there is no {what} `{name}`; there are {list:?}"))
}

/// The point that is meant, if it can have these teeth.
fn known(point: &str, teeth: Teeth) -> Result<&'static str, String> {
    if !matches!(teeth, Teeth::Abort | Teeth::Stall) {
        return among(POINTS, "fault point", point);
    }
    let bare = point.strip_suffix(".before").unwrap_or(point);
    among(POINTS, "fault point", bare).or_else(|_| among(CRASHES, "crash point", point))
}

/// `point:nth:teeth[,...]`, or `point:nth[,...]` with the same teeth for all.
fn parse(text: &str, teeth: Option<Teeth>) -> Result<Vec<(&'static str, u64, Teeth)>, String> {
    let mut out = Vec::new();
    for item in text.split(',').filter(|item| !item.is_empty()) {
        let parts: Vec<&str> = item.split(':').collect();
        let (point, nth, teeth) = match (&parts[..], teeth) {
            ([point, nth], Some(teeth)) => (point, nth, teeth),
            ([point, nth, "error"], None) => (point, nth, Teeth::Error),
            ([point, nth, "once"], None) => (point, nth, Teeth::Once),
            ([point, nth, "full"], None) => (point, nth, Teeth::Full),
            ([point, nth, "abort"], None) => (point, nth, Teeth::Abort),
            ([point, nth, "panic"], None) => (point, nth, Teeth::Panic),
            ([point, nth, "stall"], None) => (point, nth, Teeth::Stall),
            (_, Some(_)) => return Err(format!("`{item}` is not point:nth")),
            (_, None) => {
                return Err(format!("`{item}` is not point:nth:error|once|full|abort|panic|stall"));
            }
        };
        let nth = nth.parse().map_err(|_| format!("`{nth}` is not a number in `{item}`"))?;
        out.push((known(point, teeth)?, nth, teeth));
    }
    Ok(out)
}

/// `name:value[,...]`.
fn parse_bounds(text: &str) -> Result<BTreeMap<&'static str, u64>, String> {
    let mut out = BTreeMap::new();
    for item in text.split(',').filter(|item| !item.is_empty()) {
        let (name, value) =
            item.split_once(':').ok_or_else(|| format!("`{item}` is not name:value"))?;
        let value = value.parse().map_err(|_| format!("`{value}` is not a number in `{item}`"))?;
        out.insert(among(BOUNDS, "bound", name)?, value);
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_point_bites_from_its_nth_hit_on() {
        arm("storage.rename", 3, Teeth::Error);
        let said: Vec<bool> = (0..5).map(|_| check("storage.rename").is_err()).collect();
        assert_eq!(said, [false, false, true, true, true]);
        assert!(check("storage.sync_dir").is_ok());
        arm("storage.rename", 1, Teeth::Full);
        let error = check("storage.rename").expect_err("armed");
        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
        arm("storage.rename", 1, Teeth::Once);
        let said: Vec<bool> = (0..3).map(|_| check("storage.rename").is_err()).collect();
        assert_eq!(said, [true, false, false]);
        arm("storage.rename", 1, Teeth::Error);
        disarm_all();
        assert!(check("storage.rename").is_ok());
    }

    #[test]
    #[should_panic(expected = "panic at the armed point storage.remove")]
    fn a_point_that_is_to_panic_does() {
        arm("storage.remove", 1, Teeth::Panic);
        check("storage.remove").ok();
    }

    #[test]
    fn the_variable_is_parsed_or_refused() {
        assert_eq!(
            parse(
                "storage.write:2:full,storage.sync_data:1:abort,storage.write:3:panic,agent.plan.after:1:stall",
                None
            ),
            Ok(vec![
                ("storage.write", 2, Teeth::Full),
                ("storage.sync_data", 1, Teeth::Abort),
                ("storage.write", 3, Teeth::Panic),
                ("agent.plan.after", 1, Teeth::Stall)
            ])
        );
        for bad in [
            "storage.writ:1:error",
            "storage.write",
            "storage.write:x:error",
            "storage.write:1:no",
            // It happened already: it cannot fail.
            "storage.write.after:1:error",
        ] {
            assert!(parse(bad, None).is_err(), "{bad}");
        }
        assert_eq!(
            parse(
                "storage.write.before:2,storage.write.after:1,agent.plan.after:3",
                Some(Teeth::Abort)
            ),
            Ok(vec![
                ("storage.write", 2, Teeth::Abort),
                ("storage.write.after", 1, Teeth::Abort),
                ("agent.plan.after", 3, Teeth::Abort)
            ])
        );
        for bad in ["storage.write:1:abort", "storage.writ.after:1", "agent.plan.after"] {
            assert!(parse(bad, Some(Teeth::Abort)).is_err(), "{bad}");
        }
    }

    #[test]
    fn bounds_are_parsed_or_refused() {
        let expected = BTreeMap::from([("coordinator.snapshot_every", 4)]);
        assert_eq!(parse_bounds("coordinator.snapshot_every:4"), Ok(expected));
        for bad in
            ["coordinator.snapshot_every", "coordinator.snapshot:4", "coordinator.snapshot_every:x"]
        {
            assert!(parse_bounds(bad).is_err(), "{bad}");
        }
        assert_eq!(bound("coordinator.snapshot_every", 1_000), 1_000);
    }

    /// Each point that can fail can also be ended at, before and after it is done; opening leaves nothing behind.
    #[test]
    fn every_fault_point_is_a_crash_point() {
        for point in POINTS.iter().filter(|point| **point != "storage.open") {
            for crash in [format!("{point}.before"), format!("{point}.after")] {
                assert!(CRASHES.contains(&crash.as_str()), "{crash}");
            }
        }
    }

    #[test]
    #[should_panic(expected = "no fault point")]
    fn an_unknown_point_cannot_be_armed() {
        arm("storage.gone", 1, Teeth::Error);
    }
}
