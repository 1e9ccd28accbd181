//! Ringmaster: boot.
