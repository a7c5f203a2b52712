//! A partition: the async door to one log, and the registry of all of them.
