//! What an answer of OpenSearch or Elasticsearch means for the records it is about.
//!
//! By status first, because the names of errors differ between the server lines. Only what is wrong with a document itself
//! gives the document up; what is wrong with the target, the credentials or the cluster waits until it is mended, and so does
//! whatever is not known here.

use std::sync::Arc;
use std::time::Duration;

use hyper::StatusCode;
use serde::Deserialize;

use crate::machine::forward::{Failure, Item, Pause, PauseKind, Rejection};

/// Longest reason that is kept.
const REASON_CHARS_MAX: usize = 1_000;
/// Names of 400s that are not about the document.
const TARGET_ERRORS: [&str; 3] =
    ["invalid_index_name_exception", "index_not_found_exception", "invalid_alias_name_exception"];
const BLOCKED_ERRORS: [&str; 2] = ["index_closed_exception", "cluster_block_exception"];
/// What the reason for a limit of shards says, in every line.
const SHARD_LIMIT: &str = "shards open";

/// `error` of an item or of a whole answer.
#[derive(Debug, Clone, Default, Deserialize, PartialEq, Eq)]
#[serde(default)]
pub(super) struct ServerError {
    #[serde(rename = "type")]
    pub(super) kind: String,
    pub(super) reason: Option<String>,
    pub(super) caused_by: Option<Box<ServerError>>,
}

impl ServerError {
    /// The reasons, the outermost first.
    fn text(&self) -> String {
        let mut text = self.reason.clone().unwrap_or_default();
        let mut inner = self.caused_by.as_deref();
        while let Some(cause) = inner {
            if let Some(reason) = cause.reason.as_deref().filter(|reason| !text.contains(*reason)) {
                text.push_str(": ");
                text.push_str(reason);
            }
            inner = cause.caused_by.as_deref();
        }
        if let Some((end, _)) = text.char_indices().nth(REASON_CHARS_MAX) {
            text.truncate(end);
        }
        text
    }
}

/// One item of a bulk's answer.
pub(super) fn item(status: u16, error: Option<&ServerError>) -> Item {
    let none = ServerError::default();
    let error = error.unwrap_or(&none);
    let stuck = |kind| {
        let cause = format!("{status} {}: {}", error.kind, error.text());
        Item::Stuck(Pause { kind, cause: cause.into() })
    };
    let rejected = || {
        let rejection = Rejection { status, kind: error.kind.clone(), reason: error.text() };
        Item::Rejected(Arc::new(rejection))
    };
    match status {
        // The id is there: an earlier attempt got through.
        409 if tailway_faults::is_planted("broker.forward_conflict_is_an_error") => rejected(),
        200..=299 | 409 => Item::Done,
        429 if tailway_faults::is_planted("broker.forward_busy_item_dropped") => Item::Done,
        429 => Item::Again { doubtful: false },
        500..=599 => Item::Again { doubtful: true },
        400 if TARGET_ERRORS.contains(&error.kind.as_str()) => stuck(PauseKind::Target),
        400 if BLOCKED_ERRORS.contains(&error.kind.as_str()) => stuck(PauseKind::Blocked),
        400 if error.text().contains(SHARD_LIMIT) => stuck(PauseKind::Blocked),
        400 | 413 => rejected(),
        403 if error.kind.contains("block") => stuck(PauseKind::Blocked),
        401 | 403 => stuck(PauseKind::Credentials),
        404 => stuck(PauseKind::Target),
        _ => stuck(PauseKind::Unknown),
    }
}

/// An answer for a whole request that is no 200.
pub(super) fn request(
    status: StatusCode,
    from: &str,
    body: &[u8],
    retry_after: Option<Duration>,
) -> Failure {
    let error = error_in(body);
    let said =
        error.as_ref().map_or_else(|| excerpt(body), |e| format!("{}: {}", e.kind, e.text()));
    let code = status.as_u16();
    let mut text = format!("{from} answered {code}");
    if !said.is_empty() {
        text.push_str(": ");
        text.push_str(&said);
    }
    let cause: Arc<str> = text.into();
    let pause = |kind| Failure::Pause(Pause { kind, cause: Arc::clone(&cause) });
    let is_block = error.is_some_and(|error| error.kind.contains("block"));
    match code {
        403 if is_block => pause(PauseKind::Blocked),
        401 | 403 => pause(PauseKind::Credentials),
        404 => pause(PauseKind::Target),
        413 => Failure::Split { rejection: too_large(&cause) },
        429 => Failure::Busy { cause, retry_after },
        // A proxy says so as well when it does not know what became of the request.
        408 | 500..=599 => Failure::Doubtful { cause, retry_after },
        _ => pause(PauseKind::Unknown),
    }
}

fn too_large(cause: &str) -> Arc<Rejection> {
    let (kind, reason) = ("too_large".to_owned(), cause.to_owned());
    Arc::new(Rejection { status: 413, kind, reason })
}

/// The error of an answer, where it is an object.
pub(super) fn error_in(body: &[u8]) -> Option<ServerError> {
    #[derive(Deserialize)]
    struct Whole {
        error: ServerError,
    }
    serde_json::from_slice::<Whole>(body).ok().map(|whole| whole.error)
}

fn excerpt(body: &[u8]) -> String {
    let text = String::from_utf8_lossy(body);
    text.chars()
        .take(200)
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect::<String>()
        .trim()
        .to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(kind: &str, reason: &str) -> ServerError {
        ServerError { kind: kind.into(), reason: Some(reason.into()), caused_by: None }
    }

    #[test]
    #[allow(clippy::too_many_lines, reason = "one entry per answer, nothing else")]
    fn items() {
        let stuck = |kind, cause: &str| Item::Stuck(Pause { kind, cause: cause.into() });
        let rejected = |status, kind: &str, reason: &str| {
            let (kind, reason) = (kind.to_owned(), reason.to_owned());
            Item::Rejected(Arc::new(Rejection { status, kind, reason }))
        };
        let limit = "Validation Failed: 1: this action would add [2] total shards, but this cluster currently has [10]/[10] maximum shards open;";
        let cases = [
            (201, None, Item::Done),
            (200, None, Item::Done),
            (409, Some(error("version_conflict_engine_exception", "exists")), Item::Done),
            (
                429,
                Some(error("rejected_execution_exception", "full")),
                Item::Again { doubtful: false },
            ),
            // The flood-stage watermark: it goes by itself when there is room.
            (429, Some(error("cluster_block_exception", "disk")), Item::Again { doubtful: false }),
            (
                503,
                Some(error("unavailable_shards_exception", "gone")),
                Item::Again { doubtful: true },
            ),
            (500, None, Item::Again { doubtful: true }),
            (
                400,
                Some(error("mapper_parsing_exception", "no number")),
                rejected(400, "mapper_parsing_exception", "no number"),
            ),
            (
                400,
                Some(error("document_parsing_exception", "x")),
                rejected(400, "document_parsing_exception", "x"),
            ),
            (
                400,
                Some(error(
                    "illegal_argument_exception",
                    "Limit of total fields [1000] has been exceeded",
                )),
                rejected(
                    400,
                    "illegal_argument_exception",
                    "Limit of total fields [1000] has been exceeded",
                ),
            ),
            (413, None, rejected(413, "", "")),
            (
                400,
                Some(error("validation_exception", limit)),
                stuck(PauseKind::Blocked, &format!("400 validation_exception: {limit}")),
            ),
            (
                400,
                Some(error("illegal_argument_exception", limit)),
                stuck(PauseKind::Blocked, &format!("400 illegal_argument_exception: {limit}")),
            ),
            (
                400,
                Some(error("index_closed_exception", "closed")),
                stuck(PauseKind::Blocked, "400 index_closed_exception: closed"),
            ),
            (
                400,
                Some(error("invalid_index_name_exception", "bad")),
                stuck(PauseKind::Target, "400 invalid_index_name_exception: bad"),
            ),
            (
                401,
                Some(error("security_exception", "no")),
                stuck(PauseKind::Credentials, "401 security_exception: no"),
            ),
            (
                403,
                Some(error("security_exception", "no")),
                stuck(PauseKind::Credentials, "403 security_exception: no"),
            ),
            (
                403,
                Some(error("cluster_block_exception", "write")),
                stuck(PauseKind::Blocked, "403 cluster_block_exception: write"),
            ),
            (
                404,
                Some(error("index_not_found_exception", "none")),
                stuck(PauseKind::Target, "404 index_not_found_exception: none"),
            ),
            (418, None, stuck(PauseKind::Unknown, "418 : ")),
        ];
        for (status, error, expected) in cases {
            assert_eq!(item(status, error.as_ref()), expected, "{status} {error:?}");
        }
    }

    #[test]
    fn whole_answers() {
        let ask = |code: u16, body: &str| {
            request(StatusCode::from_u16(code).unwrap(), "http://es:9200", body.as_bytes(), None)
        };
        let pause = |kind, cause: &str| Failure::Pause(Pause { kind, cause: cause.into() });
        let block =
            r#"{"error":{"type":"cluster_block_exception","reason":"read only"},"status":403}"#;
        let cases = [
            (
                401,
                "Unauthorized",
                pause(PauseKind::Credentials, "http://es:9200 answered 401: Unauthorized"),
            ),
            (403, "", pause(PauseKind::Credentials, "http://es:9200 answered 403")),
            (
                403,
                block,
                pause(
                    PauseKind::Blocked,
                    "http://es:9200 answered 403: cluster_block_exception: read only",
                ),
            ),
            (404, "", pause(PauseKind::Target, "http://es:9200 answered 404")),
            (400, "x\ny", pause(PauseKind::Unknown, "http://es:9200 answered 400: x y")),
            (301, "", pause(PauseKind::Unknown, "http://es:9200 answered 301")),
            (413, "", Failure::Split { rejection: too_large("http://es:9200 answered 413") }),
            (
                429,
                "",
                Failure::Busy { cause: "http://es:9200 answered 429".into(), retry_after: None },
            ),
            (503, "", Failure::doubtful("http://es:9200 answered 503")),
            (504, "", Failure::doubtful("http://es:9200 answered 504")),
        ];
        for (code, body, expected) in cases {
            assert_eq!(ask(code, body), expected, "{code} {body}");
        }
    }

    #[test]
    fn reasons_are_told_with_what_caused_them_once_and_not_at_any_length() {
        let inner = error("number_format_exception", "For input string: \"abc\"");
        let outer = ServerError {
            caused_by: Some(Box::new(inner)),
            ..error("mapper", "failed to parse field [n]")
        };
        assert_eq!(outer.text(), "failed to parse field [n]: For input string: \"abc\"");
        assert_eq!(error("x", &"\u{e4}".repeat(2_000)).text().chars().count(), REASON_CHARS_MAX);
    }
}
