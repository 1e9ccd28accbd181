//! What stands between this process and hardware assistance.
pub struct Survey; pub fn survey(){}
