//! Progress of a fetch on standard error: a bar on a terminal, lines elsewhere.

use std::io::IsTerminal;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

use crate::output;

/// Who hears about progress.
#[derive(Debug)]
pub enum Progress {
    /// A bar that comes and goes.
    Bar(ProgressBar),
    /// One line for each stage.
    Lines,
    /// Nobody.
    Silent,
}

impl Progress {
    /// A bar if standard error is a terminal, lines otherwise.
    pub fn on_stderr() -> Self {
        if !std::io::stderr().is_terminal() {
            return Self::Lines;
        }
        let bar = ProgressBar::new(1000);
        let style = ProgressStyle::with_template("ringmaster: {msg} {wide_bar} {percent:>3} %");
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        Self::Bar(bar)
    }

    /// A new stage begins.
    pub fn stage(&self, what: &str) {
        match self {
            Self::Bar(bar) => {
                bar.set_position(0);
                bar.set_message(what.to_owned());
                // Only now: a fetch out of the cache shows no bar at all.
                bar.enable_steady_tick(Duration::from_millis(200));
            }
            Self::Lines => output::note(what),
            Self::Silent => {}
        }
    }

    /// The stage is done to this part, 0 to 1.
    pub fn fraction(&self, part: f64) {
        if let Self::Bar(bar) = self {
            // A float to integer cast saturates, so no part can be too great.
            bar.set_position((part * 1000.0) as u64);
        }
    }

    /// Something worth a line of its own.
    pub fn remark(&self, what: &str) {
        match self {
            Self::Bar(bar) => bar.suspend(|| output::note(what)),
            Self::Lines => output::note(what),
            Self::Silent => {}
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Self::Bar(bar) = self {
            bar.finish_and_clear();
        }
    }
}
