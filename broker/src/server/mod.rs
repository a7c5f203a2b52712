//! Sockets to requests, responses to sockets.
