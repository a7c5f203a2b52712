//! The newest confluent-kafka and kafka-python wheels, and the Java client, there and back.

use anyhow::{Result, ensure};

use super::Bench;
use crate::group::{Check, need};
use crate::kcat::TRANSPORTS;
use crate::python;

pub const CHECKS: &[Check] = &[
    ("confluent-kafka sends 1,000 records there and back", confluent),
    ("kafka-python sends 1,000 records there and back", kafka_python),
];

fn confluent() -> Result<()> {
    trips("confluent_trip.py")
}

fn kafka_python() -> Result<()> {
    trips("kafka_python_trip.py")
}

fn trips(script: &str) -> Result<()> {
    need("python3", "python3 python3-venv")?;
    let bench = Bench::broker()?;
    for transport in TRANSPORTS {
        let topic = format!("trip-{transport:?}");
        let said = python::script(script, &bench.deployment.dev, transport, &[&topic, "1000"])?;
        ensure!(
            said.contains("produced 1000 consumed 1000"),
            "{script} over {transport:?}: {said}"
        );
    }
    bench.deployment.stop()
}
