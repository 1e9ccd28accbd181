//! Ringmaster: memory.
