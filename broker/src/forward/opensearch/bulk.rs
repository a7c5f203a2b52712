//! Bodies of `_bulk` and `_mget`, and their answers.
//!
//! Every record is a `create` with its `_id`: a second one is refused with 409 instead of being there twice.

use std::io::{self, Write as _};
use std::sync::Arc;

use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use serde::Deserialize;

use super::classify::{self, ServerError};
use crate::machine::forward::{Item, Rejection};

/// One document on its way.
pub(super) struct Operation<'a> {
    pub(super) index: &'a str,
    pub(super) id: &'a str,
    pub(super) json: &'a [u8],
}

/// What a bulk's answer says of its operations, in order.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Answered {
    pub(super) items: Vec<Item>,
    /// Where the documents went that are there now.
    pub(super) indices: Vec<String>,
}

/// What is asked of the answer, so that it has no id in it that we know.
pub(super) const BULK_PATH: &str = "/_bulk?filter_path=errors,items.*.status,items.*._index,items.*.error.type,\
     items.*.error.reason,items.*.error.caused_by";

/// The body, compressed if wanted.
pub(super) fn body<'a>(
    operations: impl Iterator<Item = Operation<'a>>,
    gzip: bool,
) -> io::Result<Bytes> {
    let mut out = Vec::new();
    for Operation { index, id, json } in operations {
        out.extend_from_slice(b"{\"create\":{\"_index\":");
        serde_json::to_writer(&mut out, index)?;
        out.extend_from_slice(b",\"_id\":");
        serde_json::to_writer(&mut out, id)?;
        out.extend_from_slice(b"}}\n");
        out.extend_from_slice(json);
        out.push(b'\n');
    }
    if !gzip {
        return Ok(out.into());
    }
    let mut encoder = GzEncoder::new(Vec::with_capacity(out.len() / 6), Compression::fast());
    encoder.write_all(&out)?;
    encoder.finish().map(Bytes::from)
}

/// Reads an answer of status 200. `Err`: it is not whole, or not what was asked for.
pub(super) fn answered(body: &[u8]) -> Result<Answered, String> {
    #[derive(Deserialize)]
    struct Whole {
        items: Vec<Entry>,
    }
    #[derive(Deserialize)]
    struct Entry {
        create: Outcome,
    }
    #[derive(Deserialize)]
    struct Outcome {
        #[serde(rename = "_index", default)]
        index: String,
        status: u16,
        error: Option<ServerError>,
    }
    let whole: Whole = serde_json::from_slice(body).map_err(|error| error.to_string())?;
    let mut indices: Vec<String> = Vec::new();
    let mut items = Vec::with_capacity(whole.items.len());
    for Entry { create } in whole.items {
        let item = classify::item(create.status, create.error.as_ref());
        if create.status < 300 && indices.last() != Some(&create.index) {
            indices.push(create.index);
        }
        items.push(item);
    }
    Ok(Answered { items, indices })
}

/// Of a record that cannot be a document.
pub(super) fn refused(kind: &str, reason: &str) -> Item {
    let (kind, reason) = (kind.to_owned(), reason.to_owned());
    Item::Rejected(Arc::new(Rejection { status: 0, kind, reason }))
}

/// The body of a question for `ids` in one index.
pub(super) fn lookup(ids: &[&str]) -> io::Result<Bytes> {
    let mut out = b"{\"ids\":".to_vec();
    serde_json::to_writer(&mut out, ids)?;
    out.push(b'}');
    Ok(out.into())
}

/// Which of the ids that were asked for are there.
pub(super) fn looked_up(body: &[u8], asked: usize) -> Result<Vec<bool>, String> {
    #[derive(Deserialize)]
    struct Whole {
        docs: Vec<Doc>,
    }
    #[derive(Deserialize)]
    struct Doc {
        #[serde(default)]
        found: bool,
        error: Option<ServerError>,
    }
    let whole: Whole = serde_json::from_slice(body).map_err(|error| error.to_string())?;
    if whole.docs.len() != asked {
        return Err(format!("it has {} documents for {asked}", whole.docs.len()));
    }
    let of = |doc: &Doc| match &doc.error {
        // Deleted since: what was in it is gone.
        Some(error) if error.kind == "index_not_found_exception" => Ok(false),
        Some(error) => Err(format!("{}: {}", error.kind, error.reason.as_deref().unwrap_or(""))),
        None => Ok(doc.found),
    };
    whole.docs.iter().map(of).collect()
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;

    #[test]
    fn a_body_has_an_action_and_a_document_a_line_each() {
        let operations = || {
            [("i", "1", &b"{}"[..]), ("i-\"", "2", b"{\"a\":1}")]
                .map(|(index, id, json)| Operation { index, id, json })
        };
        let plain = body(operations().into_iter(), false).unwrap();
        let expected = "{\"create\":{\"_index\":\"i\",\"_id\":\"1\"}}\n{}\n\
                        {\"create\":{\"_index\":\"i-\\\"\",\"_id\":\"2\"}}\n{\"a\":1}\n";
        assert_eq!(plain, expected);
        let zipped = body(operations().into_iter(), true).unwrap();
        let mut text = String::new();
        flate2::read::GzDecoder::new(&zipped[..]).read_to_string(&mut text).unwrap();
        assert_eq!(text, expected);
    }

    #[test]
    fn an_answer_is_read_whole_or_not_at_all() {
        let text = r#"{"errors":true,"items":[{"create":{"_index":".ds-a-000001","status":201}},
            {"create":{"_index":".ds-a-000002","status":201}},
            {"create":{"_index":".ds-a-000002","status":409,"error":{"type":"version_conflict_engine_exception","reason":"x"}}},
            {"create":{"_index":"a","status":429,"error":{"type":"y","reason":null}}}]}"#;
        let expected = Answered {
            items: vec![Item::Done, Item::Done, Item::Done, Item::Again { doubtful: false }],
            indices: vec![".ds-a-000001".into(), ".ds-a-000002".into()],
        };
        assert_eq!(answered(text.as_bytes()), Ok(expected));
        for cut in [0, 1, 50, text.len() - 1] {
            assert!(answered(&text.as_bytes()[..cut]).is_err(), "{cut}");
        }
        assert!(answered(br#"{"items":[{"index":{"status":201}}]}"#).is_err());
    }

    #[test]
    fn a_lookup_says_of_each_id_whether_it_is_there() {
        assert_eq!(lookup(&["a", "b\""]).unwrap(), r#"{"ids":["a","b\""]}"#);
        let text = br#"{"docs":[{"_id":"a","found":true},{"_id":"b","found":false},
            {"_id":"c","error":{"type":"index_not_found_exception"}}]}"#;
        assert_eq!(looked_up(text, 3), Ok(vec![true, false, false]));
        assert!(looked_up(text, 2).is_err());
        let failed = br#"{"docs":[{"_id":"a","error":{"type":"no_shard_available_action_exception","reason":"r"}}]}"#;
        assert_eq!(looked_up(failed, 1), Err("no_shard_available_action_exception: r".into()));
    }
}
