//! Ringmaster: interpret.
