//! The points with their teeth: what is armed, and how often each was hit.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use crate::{BUGS, POINTS};

/// The variable that arms points in a program under test.
const VARIABLE: &str = "TAILWAY_FAULTS";

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
            if let Ok(text) = std::env::var(VARIABLE) {
                let parsed = parse(&text);
                assert!(parsed.is_ok(), "{VARIABLE}: {}", parsed.err().unwrap_or_default());
                for (point, nth, teeth) in parsed.unwrap_or_default() {
                    armed.points.insert(point, (nth.saturating_sub(1), teeth));
                }
            }
            Mutex::new(armed)
        })
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
}

/// Arms a point: its `nth` hit from now (1 = the next) and every later one bites.
///
/// # Panics
/// If there is no such point.
pub fn arm(point: &str, nth: u64, teeth: Teeth) {
    let known = POINTS.iter().find(|name| **name == point);
    assert!(known.is_some(), "there is no fault point `{point}`; there are {POINTS:?}");
    if let Some(name) = known {
        armed().points.insert(name, (nth.saturating_sub(1), teeth));
    }
}

/// Lets everything pass again.
pub fn disarm_all() {
    armed().points.clear();
}

fn planted() -> MutexGuard<'static, Option<&'static str>> {
    static PLANTED: Mutex<Option<&'static str>> = Mutex::new(None);
    PLANTED.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Plants a bug in this process; `None` removes it.
///
/// # Panics
/// If there is no such bug.
pub fn plant(bug: Option<&str>) {
    *planted() = bug.map(|bug| {
        let known = BUGS.iter().find(|name| **name == bug);
        known.copied().unwrap_or_else(|| panic!("there is no bug `{bug}`; there are {BUGS:?}"))
    });
}

/// Whether a bug is planted.
///
/// # Panics
/// If there is no such bug: a renamed one may not pass unnoticed.
pub fn is_planted(bug: &'static str) -> bool {
    assert!(BUGS.contains(&bug), "there is no bug `{bug}`; there are {BUGS:?}");
    *planted() == Some(bug)
}

/// Passes, fails or ends the process, as the point is armed.
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
        Teeth::Abort => std::process::abort(),
    }
}

/// `point:nth:teeth[,...]`.
fn parse(text: &str) -> Result<Vec<(&'static str, u64, Teeth)>, String> {
    let mut out = Vec::new();
    for item in text.split(',').filter(|item| !item.is_empty()) {
        let parts: Vec<&str> = item.split(':').collect();
        let [point, nth, teeth] = parts[..] else {
            return Err(format!("`{item}` is not point:nth:error|once|full|abort"));
        };
        let point = POINTS
            .iter()
            .find(|name| **name == point)
            .ok_or_else(|| format!("no point `{point}`; there are {POINTS:?}"))?;
        let nth = nth.parse().map_err(|_| format!("`{nth}` is not a number in `{item}`"))?;
        let teeth = match teeth {
            "error" => Teeth::Error,
            "once" => Teeth::Once,
            "full" => Teeth::Full,
            "abort" => Teeth::Abort,
            other => {
                return Err(format!("`{other}` is not error, once, full or abort in `{item}`"));
            }
        };
        out.push((*point, nth, teeth));
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
    fn the_variable_is_parsed_or_refused() {
        assert_eq!(
            parse("storage.write:2:full,storage.sync_data:1:abort"),
            Ok(vec![("storage.write", 2, Teeth::Full), ("storage.sync_data", 1, Teeth::Abort)])
        );
        for bad in
            ["storage.writ:1:error", "storage.write", "storage.write:x:error", "storage.write:1:no"]
        {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    #[should_panic(expected = "no fault point")]
    fn an_unknown_point_cannot_be_armed() {
        arm("storage.gone", 1, Teeth::Error);
    }
}
