//! `--trace`: events of the engine as lines on standard error.

use std::sync::Arc;

use engine::{TraceEvent, TraceSink, TraceWhat};

use crate::output;

/// A sink for the events that are wanted, if any are.
pub(super) fn sink(what: TraceWhat) -> Option<Arc<dyn TraceSink>> {
    (what != TraceWhat::default()).then(|| Arc::new(Lines(what)) as Arc<dyn TraceSink>)
}

struct Lines(TraceWhat);

impl TraceSink for Lines {
    fn wants(&self) -> TraceWhat {
        self.0
    }

    fn event(&self, vcpu: u32, event: &TraceEvent) {
        output::note(format_args!("vCPU {vcpu}: {}", line(event)));
    }
}

fn line(event: &TraceEvent) -> String {
    let direction = |write| if write { "write" } else { "read" };
    match *event {
        TraceEvent::Exception { rip, exception } => {
            let code = exception.error_code.map_or_else(String::new, |code| format!(" error code {code:#x}"));
            let cr2 = exception.cr2.map_or_else(String::new, |address| format!(" CR2 {address:#x}"));
            format!("exception {}{code}{cr2} at {rip:#x}", exception.vector.0)
        }
        TraceEvent::Interrupt { rip, vector } => format!("interrupt {vector:#x} at {rip:#x}"),
        TraceEvent::Port { port, size, value, write } => {
            format!("port {port:#06x} {} of {size}: {value:#x}", direction(write))
        }
        TraceEvent::Mmio { at, size, value, write } => {
            format!("address {at:#x} {} of {size}: {value:#x}", direction(write))
        }
        TraceEvent::Msr { index, value, write } => {
            let value = value.map_or_else(|| "#GP".to_owned(), |value| format!("{value:#x}"));
            format!("MSR {index:#x} {}: {value}", direction(write))
        }
        TraceEvent::Block { lin, ref listing } => format!("block at {lin:#x}\n{}", listing.trim_end()),
    }
}

#[cfg(test)]
mod tests {
    use x86::{Exception, PageFaultCode};

    use super::*;

    #[test]
    fn lines_say_what_happened() {
        let exception = Exception::pf(PageFaultCode::WRITE, 0x1234);
        let event = TraceEvent::Exception { rip: 0x10, exception };
        assert_eq!(line(&event), "exception 14 error code 0x2 CR2 0x1234 at 0x10");
        let event = TraceEvent::Block { lin: 0x10, listing: "nop | nop\n".into() };
        assert_eq!(line(&event), "block at 0x10\nnop | nop");
        let event = TraceEvent::Msr { index: 0x10, value: None, write: true };
        assert_eq!(line(&event), "MSR 0x10 write: #GP");
    }

    #[test]
    fn nobody_listens_unless_asked() {
        assert!(sink(TraceWhat::default()).is_none());
    }
}
