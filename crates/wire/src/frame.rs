//! Frames: the length prefix, request and response headers, and the door to the generated codec.
//!
//! A *frame* here is what follows the 4-byte length prefix. Everything read may be hostile: the generated
//! codec is fed through `guard::Guarded`, which bounds what an array count can reserve, and leftover bytes are
//! an error. Everything written carries its length prefix and is ready for the socket.

use bytes::{BufMut, Bytes, BytesMut};

use crate::api::ApiKey;
use crate::error::WireError;
use crate::error_code::ErrorCode;
use crate::guard::{self, Guarded};
use crate::messages::api_versions_response::ApiVersion;
use crate::messages::{ApiVersionsResponse, Decodable, Encodable, StrBytes};
use crate::primitives::{Reader, Writer};

/// Bytes of the length prefix.
pub const LENGTH_PREFIX: usize = 4;

/// The largest request that is not a Produce request. A server may refuse more after the first two bytes of
/// the frame (see [`request_limit`]); `decode_request` refuses it in any case.
pub const MAX_COLD_REQUEST: usize = 8 << 20;

/// What stands before every request.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RequestHeader {
    pub api_key: i16,
    pub api_version: i16,
    pub correlation_id: i32,
    pub client_id: Option<StrBytes>,
}

impl RequestHeader {
    pub fn new(
        api: ApiKey,
        api_version: i16,
        correlation_id: i32,
        client_id: Option<StrBytes>,
    ) -> Self {
        Self { api_key: api.key(), api_version, correlation_id, client_id }
    }

    /// The row of the API table that the key names.
    pub fn api(&self) -> Result<ApiKey, WireError> {
        ApiKey::try_from(self.api_key).map_err(|_| self.unknown_api())
    }

    /// The error that names this request's key, version and client: for an API that the table knows and this
    /// server does not answer.
    pub fn unknown_api(&self) -> WireError {
        WireError::UnknownApiKey {
            api_key: self.api_key,
            api_version: self.api_version,
            correlation_id: self.correlation_id,
            client_id: self.client_id.clone(),
        }
    }

    fn unsupported_version(&self, api: ApiKey) -> WireError {
        WireError::UnsupportedVersion {
            api,
            api_version: self.api_version,
            versions: api.accepted_versions(),
            correlation_id: self.correlation_id,
            client_id: self.client_id.clone(),
        }
    }
}

/// How large a request of this key may be, when a Produce request may have `produce_limit` bytes.
pub fn request_limit(api_key: i16, produce_limit: usize) -> usize {
    if api_key == ApiKey::Produce.key() {
        produce_limit
    } else {
        MAX_COLD_REQUEST.min(produce_limit)
    }
}

/// Splits a request frame into its header and the body of the request.
///
/// A key or version that is not accepted gives `UnknownApiKey` or `UnsupportedVersion` with all that a log
/// line or an answer needs.
pub fn parse_request_header(frame: Bytes) -> Result<(RequestHeader, Bytes), WireError> {
    let mut reader = Reader::new(frame, false);
    let header = RequestHeader {
        api_key: reader.i16("api_key")?,
        api_version: reader.i16("api_version")?,
        correlation_id: reader.i32("correlation_id")?,
        // Not compact in any header version, so that it can be read before the version is known.
        client_id: reader.nullable_string("client_id")?,
    };
    let api = header.api()?;
    if !api.accepted_versions().contains(header.api_version) {
        return Err(header.unsupported_version(api));
    }
    let mut reader = Reader::new(reader.into_rest(), api.is_flexible(header.api_version));
    reader.skip_tagged_fields("request header tags")?;
    Ok((header, reader.into_rest()))
}

/// Reads the body of a request of a generated type; nothing may be left over.
pub fn decode_request<T: Decodable>(body: Bytes, version: i16) -> Result<T, WireError> {
    if body.len() > MAX_COLD_REQUEST {
        return Err(WireError::TooLarge {
            what: "request",
            size: body.len(),
            limit: MAX_COLD_REQUEST,
        });
    }
    decode_within(body, version, guard::REQUEST_READS)
}

/// A request of a generated type as a whole frame with its length prefix.
pub fn encode_request<T: Encodable>(
    header: &RequestHeader,
    request: &T,
) -> Result<Bytes, WireError> {
    let head = request_head(header)?;
    encode_behind(&head, request, header.api_version)
}

/// A request whose body is already bytes (our private APIs) as a whole frame with its length prefix.
pub fn encode_request_raw(header: &RequestHeader, body: &[u8]) -> Result<Bytes, WireError> {
    let head = request_head(header)?;
    raw_behind(&head, body)
}

/// A response of a generated type to the request with this header, as a whole frame with its length prefix.
pub fn encode_response<T: Encodable>(
    header: &RequestHeader,
    response: &T,
) -> Result<Bytes, WireError> {
    let head = response_head(header.api()?, header.api_version, header.correlation_id);
    encode_behind(&head, response, header.api_version)
}

/// A response whose body is already bytes (our private APIs), as a whole frame with its length prefix.
pub fn encode_response_raw(header: &RequestHeader, body: &[u8]) -> Result<Bytes, WireError> {
    let head = response_head(header.api()?, header.api_version, header.correlation_id);
    raw_behind(&head, body)
}

/// The answer to an ApiVersions request in a version above ours: layout 0, UNSUPPORTED_VERSION, and the
/// versions of ApiVersions itself, from which every client finds its way down (KIP-511).
pub fn encode_unsupported_api_versions(correlation_id: i32) -> Result<Bytes, WireError> {
    let versions = ApiKey::ApiVersions.listed_versions();
    let entry = ApiVersion::default()
        .with_api_key(ApiKey::ApiVersions.key())
        .with_min_version(versions.min)
        .with_max_version(versions.max);
    let response = ApiVersionsResponse::default()
        .with_error_code(ErrorCode::UNSUPPORTED_VERSION.code())
        .with_api_keys(vec![entry]);
    encode_response(&RequestHeader::new(ApiKey::ApiVersions, 0, correlation_id, None), &response)
}

/// The correlation id of a response frame, before anything else of it is looked at.
pub fn peek_correlation_id(frame: &[u8]) -> Result<i32, WireError> {
    match frame.first_chunk::<4>() {
        Some(bytes) => Ok(i32::from_be_bytes(*bytes)),
        None => {
            Err(WireError::Truncated { field: "correlation_id", needed: 4, available: frame.len() })
        }
    }
}

/// Splits a response frame into its correlation id and body.
pub fn split_response(api: ApiKey, version: i16, frame: Bytes) -> Result<(i32, Bytes), WireError> {
    let flexible = api.response_header_version(version) >= 1;
    let mut reader = Reader::new(frame, flexible);
    let correlation_id = reader.i32("correlation_id")?;
    reader.skip_tagged_fields("response header tags")?;
    Ok((correlation_id, reader.into_rest()))
}

/// Reads a response of a generated type: (correlation id, response); nothing may be left over.
///
/// An ApiVersions response with UNSUPPORTED_VERSION is read in layout 0, whatever was asked for.
pub fn decode_response<T: Decodable>(
    api: ApiKey,
    version: i16,
    frame: Bytes,
) -> Result<(i32, T), WireError> {
    let (correlation_id, body) = split_response(api, version, frame)?;
    let unsupported = ErrorCode::UNSUPPORTED_VERSION.code().to_be_bytes();
    let version =
        if api == ApiKey::ApiVersions && body.starts_with(&unsupported) { 0 } else { version };
    Ok((correlation_id, decode_within(body, version, guard::RESPONSE_READS)?))
}

/// Reads any generated structure (for example a consumer's subscription inside JoinGroup metadata), without
/// header; leftover bytes are an error.
pub fn decode_message<T: Decodable>(bytes: Bytes, version: i16) -> Result<T, WireError> {
    decode_within(bytes, version, guard::REQUEST_READS)
}

fn decode_within<T: Decodable>(
    bytes: Bytes,
    version: i16,
    max_reads: usize,
) -> Result<T, WireError> {
    let mut guarded = Guarded::new(bytes, max_reads);
    let message =
        T::decode(&mut guarded, version).map_err(|cause| message_error::<T>(version, &cause))?;
    match guarded.left_over() {
        0 => Ok(message),
        count => Err(WireError::TrailingBytes { what: short_name::<T>(), count }),
    }
}

/// The bytes of any generated structure, without header and length prefix.
pub fn encode_message<T: Encodable>(message: &T, version: i16) -> Result<Bytes, WireError> {
    let mut out = BytesMut::new();
    message.encode(&mut out, version).map_err(|cause| message_error::<T>(version, &cause))?;
    Ok(out.freeze())
}

/// Refuses a version that the table does not accept, for the hand-written codecs.
pub(crate) fn check_accepted(api: ApiKey, version: i16) -> Result<(), WireError> {
    if api.accepted_versions().contains(version) {
        return Ok(());
    }
    Err(RequestHeader::new(api, version, 0, None).unsupported_version(api))
}

/// The header of a request, without length prefix.
pub(crate) fn request_head(header: &RequestHeader) -> Result<Bytes, WireError> {
    let api = header.api()?;
    let mut writer = Writer::new(false);
    writer.i16(header.api_key);
    writer.i16(header.api_version);
    writer.i32(header.correlation_id);
    writer.nullable_string("client_id", header.client_id.as_deref())?;
    if api.is_flexible(header.api_version) {
        writer.uvarint(0);
    }
    Ok(writer.finish())
}

/// The header of a response, without length prefix.
pub(crate) fn response_head(api: ApiKey, version: i16, correlation_id: i32) -> Bytes {
    let mut writer = Writer::new(false);
    writer.i32(correlation_id);
    if api.response_header_version(version) >= 1 {
        writer.uvarint(0);
    }
    writer.finish()
}

/// The length prefix of a frame of `size` bytes.
pub(crate) fn length_prefix(size: usize) -> Result<i32, WireError> {
    i32::try_from(size).map_err(|_| WireError::TooLarge {
        what: "frame",
        size,
        limit: i32::MAX as usize,
    })
}

fn encode_behind<T: Encodable>(head: &[u8], message: &T, version: i16) -> Result<Bytes, WireError> {
    let size =
        message.compute_size(version).map_err(|cause| message_error::<T>(version, &cause))?;
    let mut out = BytesMut::with_capacity(LENGTH_PREFIX + head.len() + size);
    out.put_i32(length_prefix(head.len() + size)?);
    out.put_slice(head);
    message.encode(&mut out, version).map_err(|cause| message_error::<T>(version, &cause))?;
    // The size was computed by the same generated code; a difference would desynchronise the connection.
    if out.len() != LENGTH_PREFIX + head.len() + size {
        return Err(WireError::Message {
            message: short_name::<T>(),
            version,
            cause: format!(
                "computed {size} bytes, wrote {}",
                out.len() - LENGTH_PREFIX - head.len()
            ),
        });
    }
    Ok(out.freeze())
}

fn raw_behind(head: &[u8], body: &[u8]) -> Result<Bytes, WireError> {
    let mut out = BytesMut::with_capacity(LENGTH_PREFIX + head.len() + body.len());
    out.put_i32(length_prefix(head.len() + body.len())?);
    out.put_slice(head);
    out.put_slice(body);
    Ok(out.freeze())
}

fn message_error<T>(version: i16, cause: &proto_kafka::error::ProtoError) -> WireError {
    WireError::Message { message: short_name::<T>(), version, cause: cause.to_string() }
}

fn short_name<T>() -> &'static str {
    let path = std::any::type_name::<T>();
    path.rsplit("::").next().unwrap_or(path)
}
