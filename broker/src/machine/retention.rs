//! Which segments may go, by time and size.
