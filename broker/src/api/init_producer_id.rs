//! InitProducerId (22), versions 0-4. KIP-98, KIP-360.
//!
//! For idempotent producers only: each call gives a fresh id with epoch 0 (Kafka does the same for producers without a
//! transactional id, whatever id they say they had). Differs: a transactional id is refused with INVALID_REQUEST, because
//! there are no transactions yet; FindCoordinator says it in words.

use tailway_wire::error_code::ErrorCode;
use tailway_wire::messages::{InitProducerIdRequest, InitProducerIdResponse};

use crate::cluster::producer_ids::{ProducerIdError, ProducerIds};

const NO_EPOCH: i16 = -1;

pub async fn handle(request: InitProducerIdRequest, ids: &ProducerIds) -> InitProducerIdResponse {
    let refused = |code: ErrorCode| {
        InitProducerIdResponse::default()
            .with_error_code(code.code())
            .with_producer_id((-1).into())
            .with_producer_epoch(NO_EPOCH)
    };
    if request.transactional_id.is_some() {
        return refused(ErrorCode::INVALID_REQUEST);
    }
    match ids.next().await {
        Ok(id) => InitProducerIdResponse::default().with_producer_id(id.into()),
        Err(error) => {
            tracing::warn!(%error, "a producer got no producer id");
            refused(match error {
                // Producers ask again.
                ProducerIdError::Controller(_) | ProducerIdError::Stopped => {
                    ErrorCode::COORDINATOR_NOT_AVAILABLE
                }
                ProducerIdError::Storage(_) | ProducerIdError::Damaged { .. } => {
                    ErrorCode::KAFKA_STORAGE_ERROR
                }
            })
        }
    }
}
