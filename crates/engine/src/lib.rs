//! Ringmaster: engine.
