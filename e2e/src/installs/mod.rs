//! Installs: hosts that are booted with systemd, the units unaltered, and what an operator does there.

mod before;
pub mod host;
mod package;
mod quickstart;
mod services;
mod units;

use anyhow::Result;

use crate::group::{self, Check, need};

/// The group `installs`.
pub fn run(words: &[String]) -> Result<()> {
    for (program, package) in
        [("debootstrap", "debootstrap"), ("ip", "iproute2"), ("nsenter", "util-linux")]
    {
        need(program, package)?;
    }
    group::run(&CHECKS, words)
}

const CHECKS: [Check; 7] = [
    ("units are as systemd wants them, and hardened", units::are_sound),
    ("the quick start of two hosts, as it is written", quickstart::works_as_written),
    ("an agent reads every host metric in its sandbox", services::let_the_agent_read_its_host),
    (
        "kill -9 restarts, a wrong configuration stays down",
        services::are_restarted_unless_misconfigured,
    ),
    ("a watchdog replaces what hangs", services::are_replaced_when_they_hang),
    (
        "a build of before there were packages reads today's data, and today's reads its",
        before::reads_the_data,
    ),
    ("a host's shutdown stops agent, broker, coordinator", services::stop_in_order_with_their_host),
];
