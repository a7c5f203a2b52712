//! One consumer group: members, generation, rebalance.
