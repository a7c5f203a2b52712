//! Every metric of the broker, declared once.
