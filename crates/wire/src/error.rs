//! What can be wrong with bytes: one error type for the whole crate.
//!
//! Every variant carries what a log line needs (field, counts, versions, client id), so that whoever handles
//! it can name the guilty peer without parsing text. Nothing in this crate panics on foreign bytes.

use crate::api::{ApiKey, VersionRange};
use crate::messages::StrBytes;
use crate::record::Compression;

/// Why bytes could not be read or a message could not be written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WireError {
    /// The frame ends inside a field.
    #[error("{field} needs {needed} bytes, only {available} are left")]
    Truncated { field: &'static str, needed: usize, available: usize },

    /// A message was read completely and bytes are left over.
    #[error("{count} bytes are left over after {what}")]
    TrailingBytes { what: &'static str, count: usize },

    /// A length or count below what its field allows (-1 where null is not allowed, or anything below -1).
    #[error("{field} has the negative length {value}")]
    NegativeLength { field: &'static str, value: i64 },

    /// An array announces more elements than the rest of the frame could hold.
    #[error("{field} announces {count} elements, but only {available} bytes are left")]
    CountTooLarge { field: &'static str, count: usize, available: usize },

    /// A varint runs over its last allowed byte or carries bits that its type has no room for.
    #[error("{field} is not a valid varint")]
    InvalidVarint { field: &'static str },

    /// A string is not UTF-8.
    #[error("{field} is not valid UTF-8")]
    InvalidUtf8 { field: &'static str },

    /// Any other field value that the protocol does not allow.
    #[error("{field} is invalid: {cause}")]
    InvalidField { field: &'static str, cause: &'static str },

    /// The API key is not one that Tailway knows. Whoever closes the connection for this names the client.
    #[error("unknown API key {api_key} (version {api_version}) from client {}", client(client_id.as_ref()))]
    UnknownApiKey {
        api_key: i16,
        api_version: i16,
        correlation_id: i32,
        client_id: Option<StrBytes>,
    },

    /// The API is known, the version is not served. For `ApiKey::ApiVersions` the answer is
    /// [`crate::frame::encode_unsupported_api_versions`]; everything else ends the connection.
    #[error("{api} version {api_version} is not served (versions {versions} are) to client {}", client(client_id.as_ref()))]
    UnsupportedVersion {
        api: ApiKey,
        api_version: i16,
        versions: VersionRange,
        correlation_id: i32,
        client_id: Option<StrBytes>,
    },

    /// A frame or body above the bound of its kind.
    #[error("{what} of {size} bytes is larger than the limit of {limit} bytes")]
    TooLarge { what: &'static str, size: usize, limit: usize },

    /// The generated codec refused a message (short, malformed, or a field that its version does not have).
    #[error("{message} version {version}: {cause}")]
    Message { message: &'static str, version: i16, cause: String },

    /// A record batch in message format 0 or 1 (clients before Kafka 0.11), which Tailway does not store.
    #[error(
        "message format v{magic} is not supported: the client is older than Kafka 0.11 or is told to speak like one"
    )]
    OldMessageFormat { magic: i8 },

    /// A record batch whose magic byte is none of Kafka's.
    #[error("record batch with unknown magic {magic}")]
    UnknownMagic { magic: i8 },

    /// A record batch whose length field cannot be true.
    #[error(
        "record batch at offset {base_offset} has the impossible length {batch_length} ({available} bytes are there)"
    )]
    BatchLength { base_offset: i64, batch_length: i32, available: usize },

    /// A record batch that does not match its CRC-32C.
    #[error(
        "record batch at offset {base_offset} fails its CRC (stored {stored:#010x}, computed {computed:#010x})"
    )]
    CrcMismatch { base_offset: i64, stored: u32, computed: u32 },

    /// A record batch whose fields contradict each other.
    #[error("record batch at offset {base_offset} is invalid: {cause}")]
    InvalidBatch { base_offset: i64, cause: &'static str },

    /// A record inside a batch that cannot be read.
    #[error("record {index} of the batch is invalid: {cause}")]
    InvalidRecord { index: i32, cause: String },

    /// The codec bits of a batch name none of the five codecs.
    #[error("unknown compression codec {id}")]
    UnknownCodec { id: i16 },

    /// Compressed data that its codec cannot read (or, when writing, a codec that failed).
    #[error("{codec} data is corrupt: {cause}")]
    Codec { codec: Compression, cause: String },

    /// Decompressing would give more than the caller's cap: a bomb, or a cap that is too small.
    #[error("{codec} data decompresses to more than {cap} bytes")]
    DecompressedTooLarge { codec: Compression, cap: usize },
}

fn client(client_id: Option<&StrBytes>) -> String {
    client_id.map_or_else(|| "without an id".to_owned(), |id| format!("{:?}", id.as_str()))
}
