//! Which partition of the offsets topic a group belongs to: Kafka's formula, so that topics can move between the two.

/// `Utils.abs(groupId.hashCode()) % partitions` of Kafka; -1 if there are no partitions.
pub fn partition_for_group(group_id: &str, partitions: i32) -> i32 {
    if partitions <= 0 {
        return -1;
    }
    let hash = group_id
        .encode_utf16()
        .fold(0_i32, |hash, unit| hash.wrapping_mul(31).wrapping_add(i32::from(unit)));
    // Kafka's abs of the smallest integer is 0.
    hash.checked_abs().unwrap_or(0) % partitions
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_lie_where_kafka_puts_them() {
        let cases = [
            // Seen in Kafka 4.3.1 with 4 partitions.
            ("grp-a", 4, 1),
            ("simple", 4, 2),
            // Java's hash codes: "" is 0, "a" 97, "hello" 99162322, an emoji its two surrogates.
            ("", 50, 0),
            ("a", 50, 47),
            ("hello", 50, 22),
            ("\u{1f600}", 1_000_000, 772_899),
            // Hash code -2147483648.
            ("polygenelubricants", 50, 0),
            ("any", 0, -1),
        ];
        for (group, partitions, expected) in cases {
            assert_eq!(partition_for_group(group, partitions), expected, "{group}");
        }
    }
}
