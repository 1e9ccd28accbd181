//! Ringmaster: conformance.
