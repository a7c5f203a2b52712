//! What the coordinator says and what this broker does about it.
